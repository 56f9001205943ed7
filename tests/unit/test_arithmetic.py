"""The built-in problems, the prompt and the answer."""

import collections
import re

import numpy as np
import pytest

from harness import recipe as recipes
from harness.data import arithmetic, prompt
from harness.data.problem import Problem
from harness.errors import HarnessError


@pytest.mark.parametrize("operations", [("+",), ("-",), ("+", "-")])
@pytest.mark.parametrize("max_operand", [2, 9, 12])
def test_arithmetic_answers_are_right(operations, max_operand):
    config = recipes.Arithmetic(
        train_problems=500, test_problems=200, max_operand=max_operand, operations=operations
    )
    for problem in [p for split in arithmetic.problems(config) for p in split]:
        found = re.search(r"(\d+)([+-])(\d+)=<<\1\2\3=(-?\d+)>>\4 ", problem.answer)
        assert found is not None
        a, operation, b, c = int(found[1]), found[2], int(found[3]), int(found[4])
        assert c == (a + b if operation == "+" else a - b) >= 0
        assert max(a, b) <= max_operand
        assert operation in operations
        assert re.findall(r"\d+", problem.question) == [found[1], found[3]]
        assert prompt.extract_answer(problem.answer) == found[4]


def test_arithmetic_texts_are_distinct_within_and_across_splits():
    config = recipes.Arithmetic(train_problems=5000, test_problems=2000, operations=("+", "-"))
    train, test = arithmetic.problems(config)
    assert (len(train), len(test)) == (5000, 2000)
    assert len({problem.question for problem in train + test}) == 7000


def _sums(problems: list[Problem]) -> collections.Counter[str]:
    return collections.Counter(re.findall(r"<<(.*)=", problem.answer)[0] for problem in problems)


@pytest.mark.parametrize(
    ("train_problems", "test_problems"), [(1000, 155), (155, 400), (1001, 500)]
)
def test_arithmetic_asks_every_sum_equally_often_in_both_splits(train_problems, test_problems):
    config = recipes.Arithmetic(
        train_problems=train_problems, test_problems=test_problems, operations=("+", "-")
    )
    for problems in arithmetic.problems(config):
        counts = _sums(problems)
        assert len(counts) == 100 + 55
        assert max(counts.values()) - min(counts.values()) <= 1


def test_arithmetic_depends_on_its_own_seed_alone():
    config = recipes.Arithmetic(train_problems=200, test_problems=50)
    np.random.seed(1)
    first = arithmetic.problems(config)
    np.random.seed(2)
    assert arithmetic.problems(config) == first
    other = recipes.Arithmetic(train_problems=200, test_problems=50, seed=1)
    assert arithmetic.problems(other) != first


def test_arithmetic_writes_all_texts_that_exist_and_refuses_one_more():
    with pytest.raises(HarnessError, match=r"only \d+ exist with max_operand 2") as refusal:
        arithmetic.problems(recipes.Arithmetic(train_problems=10**6, max_operand=2))
    exist = int(re.findall(r"only (\d+) exist", str(refusal.value))[0])
    config = recipes.Arithmetic(train_problems=exist - 100, test_problems=100, max_operand=2)
    train, test = arithmetic.problems(config)
    assert len({problem.question for problem in train + test}) == exist
    one_more = recipes.Arithmetic(train_problems=exist - 99, test_problems=100, max_operand=2)
    with pytest.raises(HarnessError, match=f"asks for {exist + 1} distinct problems"):
        arithmetic.problems(one_more)


def test_arithmetic_without_operations_is_refused():
    with pytest.raises(HarnessError, match=r"data\.arithmetic\.operations is empty"):
        arithmetic.problems(recipes.Arithmetic(operations=()))


def test_arithmetic_says_one_thing_but_two_things():
    config = recipes.Arithmetic(train_problems=3000, test_problems=1, operations=("+", "-"))
    for problem in arithmetic.problems(config)[0]:
        first, things, rest = re.split(r"(?<=\d )([a-z]+)", problem.question, maxsplit=1)
        plural = re.findall(r"How many ([a-z]+)", rest)[0]
        assert things == (plural.removesuffix("s") if first.split()[-1] == "1" else plural)


def test_arithmetic_questions_are_their_fragments_and_digits():
    pieces = "|".join(map(re.escape, sorted(arithmetic.fragments(), key=len, reverse=True)))
    config = recipes.Arithmetic(train_problems=1000, test_problems=1, operations=("+", "-"))
    for problem in arithmetic.problems(config)[0]:
        assert re.fullmatch(rf"(?:{pieces}|\d)+", problem.question)


def test_the_prompt_is_the_references():
    assert prompt.format_prompt(recipes.Data(), "How many?") == (
        "<start_of_turn>user\nHow many? Let's think step by step and output the final answer "
        'after "####".<end_of_turn>\n<start_of_turn>model'
    )


@pytest.mark.parametrize("question", ["{system_prompt}", "{question}", "a {b} {}", r"\1 \g<0>"])
def test_a_question_is_never_taken_for_template(question):
    template = recipes.Data(prompt="{system_prompt}|{question}|{other}", system_prompt="S")
    assert prompt.format_prompt(template, question) == f"S|{question}|{{other}}"


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("Steps.\n#### 72", "72"),
        ("#### 1,234,567", "1234567"),
        ("#### -5", "-5"),
        ("#### 2.50", "2.50"),
        ("#### .5", ".5"),
        ("#### 7\n#### 8", "8"),
        ("#### 1. Count the pears\n8+2=10\n#### 10", "10"),
        ("#### 72 \r\nThat is all.", "72"),
    ],
)
def test_the_answer_is_the_number_after_the_mark(answer, number):
    assert prompt.extract_answer(answer) == number


@pytest.mark.parametrize(
    "answer",
    [
        *("", "72", "####72", "####  72", "#### $72", "#### ,", "#### five", "#### 7\n####"),
        *("#### 1/2", "#### 2:30", "#### 1e6", "#### 3 1/2", "#### 12-15", "#### 10."),
        *("#### 2.50 dollars", "#### 1,5", "#### 12,34,567", "#### +5", "#### 10%", "#### 1.2.3"),
    ],
)
def test_an_answer_without_number_is_an_error(answer):
    with pytest.raises(ValueError, match="no number after '#### '"):
        prompt.extract_answer(answer)
