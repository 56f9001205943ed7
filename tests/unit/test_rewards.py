"""The rule-based score, case by case, and the checks around a reward function."""

import inspect
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import recipe, rewards
from harness.errors import HarnessError
from tests.conftest import GSM8K

RIGHT, FORMED, NOTHING = 1.0, 0.1, 0.0

# (completion, ground truth, score): the table of harness.rewards, row by row.
CASES = [
    ("so it is #### 10", "10", RIGHT),
    ("#### 10 apples", "10", RIGHT),
    ("#### 7, no: #### 10", "10", RIGHT),
    ("#### 10, no: #### 7", "10", FORMED),
    ("#### 10, that is #### ten", "10", RIGHT),
    ("#### -3", "-3", RIGHT),
    ("#### 3", "-3", FORMED),
    ("#### 2.5", "2.5", RIGHT),
    ("#### 1,234", "1234", RIGHT),
    ("#### 1234", "1,234", RIGHT),
    ("#### 1,234,567", "1,234,567", RIGHT),
    ("#### 10.", "10", FORMED),
    ("#### 10.0", "10", FORMED),
    ("#### 010", "10", FORMED),
    ("#### ,", "10", FORMED),
    ("#### .", "10", FORMED),
    ("#### 5", "55", FORMED),
    ("#### 11", "10", FORMED),
    ("#### $10", "10", NOTHING),
    ("#### +10", "10", NOTHING),
    ("#### -", "10", NOTHING),
    ("####10", "10", NOTHING),
    ("####  10", "10", NOTHING),
    ("####\n10", "10", NOTHING),
    ("### 10", "10", NOTHING),
    ("##### 10", "10", RIGHT),
    ("10", "10", NOTHING),
    ("####", "10", NOTHING),
    ("", "10", NOTHING),
    ("#### \u0661\u0660", "10", NOTHING),
]


@pytest.mark.parametrize(("completion", "truth", "expected"), CASES)
def test_score_follows_the_table(completion, truth, expected):
    assert rewards.score(completion, truth) == expected


@pytest.mark.parametrize(
    "truth", ["10", 10, np.str_("10"), np.int64(10)], ids=lambda truth: type(truth).__name__
)
def test_ground_truth_may_be_text_or_integer(truth):
    assert rewards.score("#### 10", truth) == RIGHT
    assert rewards.score("#### 11", truth) == FORMED


def test_ground_truth_in_bytes_is_refused():
    with pytest.raises(HarnessError, match="bytes"):
        rewards.score("#### 10", b"10")


@pytest.mark.parametrize(
    ("after", "expected"),
    [(0, RIGHT), (293, RIGHT), (294, NOTHING), (1000, NOTHING)],
    ids=["at the end", "just within the window", "tag cut by the window", "before the window"],
)
def test_only_the_last_300_characters_are_looked_at(after, expected):
    # The tag with its number has 7 characters.
    assert rewards.score("#### 10" + "x" * after, "10") == expected


def test_the_window_cuts_the_text_not_the_number_of_tags():
    text = "#### 10" + "x" * 20 + "#### 7"
    assert rewards.extract_answer(text, clip_chars=6) == "7"
    assert rewards.extract_answer(text, clip_chars=5) is None
    assert rewards.extract_answer("#### 10" + "x" * 20, clip_chars=27) == "10"


@given(number=st.integers(), before=st.text(max_size=400), grouped=st.booleans())
def test_any_integer_is_read_back_with_or_without_commas(number, before, grouped):
    written = f"{number:,}" if grouped else str(number)
    assert rewards.score(f"{before}#### {written}", number) == RIGHT


@given(number=st.integers(), other=st.integers())
def test_an_integer_is_right_only_for_itself(number, other):
    expected = RIGHT if number == other else FORMED
    assert rewards.score(f"#### {other}", number) == expected


def test_settings_replace_the_scores_and_the_window():
    def scored(text, **settings):
        return rewards.score(text, "10", **settings)

    assert scored("#### 10", correct=8.0) == 8.0
    assert scored("#### 11", format=-0.5) == -0.5
    assert scored("#### 10 apples", clip_chars=7) == NOTHING


def test_a_batch_is_scored_completion_by_completion():
    given_scores = rewards.gsm8k_reward(
        ["a", "b", "c"],
        ["thus #### 10", "thus #### 10", "thus 2"],
        np.array(["10", "100", "2"]),
        question=["?", "?", "?"],
    )
    assert given_scores == [RIGHT, FORMED, NOTHING]


def test_a_batch_with_too_few_ground_truths_is_refused():
    with pytest.raises(HarnessError, match="2 completions but 1 ground truths"):
        rewards.gsm8k_reward(["a", "b"], ["#### 1", "#### 2"], ["1"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_solution_of_gsm8k_is_right_for_its_own_answer(split):
    lines = (GSM8K / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    solutions = [json.loads(line)["answer"] for line in lines]
    truths = [solution.rpartition("#### ")[2] for solution in solutions]
    assert truths
    assert set(rewards.gsm8k_reward(solutions, solutions, truths)) == {RIGHT}


@pytest.fixture
def reward_module(tmp_path, monkeypatch):
    """Write a module of reward functions and puts it on the path."""

    def write(source: str) -> str:
        name = f"rewards_of_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def built(function: str, **settings) -> rewards.RewardFn:
    return rewards.build(recipe.Reward(function=function, **settings))


def test_the_recipe_s_settings_reach_the_builtin_reward():
    reward = rewards.build(recipe.Reward(correct=2.0, format=0.5, clip_chars=8))
    completions = ["#### 10", "#### 11", "#### 10 apples"]
    assert reward(prompts=[""] * 3, completions=completions, answer=["10"] * 3) == [2.0, 0.5, 0.0]


def test_the_built_function_keeps_the_name_and_hides_the_parameters():
    reward = rewards.build(recipe.Reward())
    assert getattr(reward, "__name__", None) == "gsm8k_reward"
    assert list(inspect.signature(reward).parameters) == ["prompts", "completions", "columns"]


def test_a_function_gets_only_the_settings_that_it_takes(reward_module):
    name = reward_module(
        "def of_columns(prompts, completions, **columns):\n"
        "    assert 'format' not in columns and 'clip_chars' not in columns\n"
        "    return [float(v) for v in columns['weight']]\n"
        "def of_setting(prompts, completions, correct, **columns):\n"
        "    return [correct] * len(completions)\n"
    )
    call = {"prompts": ["a", "b"], "completions": ["x", "y"]}
    assert built(f"{name}:of_columns")(**call, weight=[3, 4]) == [3.0, 4.0]
    assert built(f"{name}:of_setting", correct=5.0)(**call, correct=["no", "no"]) == [5.0, 5.0]


@pytest.mark.parametrize(
    "values",
    ["[0.5, 1]", "np.float32([0.5, 1])", "[np.float64(0.5), True]"],
)
def test_any_real_numbers_become_floats(reward_module, values):
    name = reward_module(
        f"import numpy as np\ndef reward(prompts, completions):\n    return {values}\n"
    )
    given_scores = built(f"{name}:reward")(prompts=["a", "b"], completions=["x", "y"])
    assert given_scores == [0.5, 1.0]
    assert {type(value) for value in given_scores} == {float}


@pytest.mark.parametrize(
    "values",
    [
        "None",
        "1.0",
        "[1.0]",
        "[1.0, 2.0, 3.0]",
        "[[1.0, 2.0]]",
        "[1.0, [2.0]]",
        "[1.0, None]",
        "[1.0, float('nan')]",
        "[float('inf'), 1.0]",
        "['1', '2']",
        "(1.0 for _ in completions)",
    ],
)
def test_anything_but_one_finite_number_each_is_refused_by_name(reward_module, values):
    name = reward_module(f"def reward(prompts, completions):\n    return {values}\n")
    with pytest.raises(HarnessError, match=f"{name}:reward"):
        built(f"{name}:reward")(prompts=["a", "b"], completions=["x", "y"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module_at_all:reward", "cannot import no_such_module_at_all"),
        ("harness.rewards:no_such_name", "has no function 'no_such_name'"),
        ("harness.rewards:_ANSWER", "has no function '_ANSWER'"),
    ],
)
def test_a_function_that_is_not_there_is_refused(function, message):
    with pytest.raises(HarnessError, match=message):
        built(function)


def test_a_module_that_breaks_on_import_is_refused_with_its_error(reward_module):
    name = reward_module("raise ArithmeticError('bad day')\n")
    with pytest.raises(HarnessError, match="ArithmeticError: bad day"):
        built(f"{name}:reward")
