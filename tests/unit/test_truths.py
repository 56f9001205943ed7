"""Truths held to the rule of the reward, and what else is output of problems when they are read."""

import json
import pathlib
import re

import pytest

from harness import data, tokenizer
from harness import recipe as recipes
from harness.data import gsm8k, truths
from harness.data.problem import Problem
from harness.errors import HarnessError
from tests.conftest import small_recipe

BUILTIN = tokenizer.load(recipes.load("tiny"))


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(tmp_path / "cache"))


def problem(number: int, answer: str | None = None) -> Problem:
    return Problem(f"A shop has {number} hats. How many?", answer or f"So.\n#### {number}")


def write(folder: pathlib.Path, train: list[Problem], test: list[Problem]) -> str:
    for split, problems in (("train", train), ("test", test)):
        lines = "".join(json.dumps(each._asdict()) + "\n" for each in problems)
        (folder / f"{split}.jsonl").write_text(lines)
    return f"jsonl:{folder}"


def load(source: str, *assignments: str) -> data.Dataset:
    lengths = ("rollout.max_prompt_length=64", "rollout.cache_size=72", "data.num_batches=1")
    recipe = recipes.replace(small_recipe(), f"data.source={source}", *lengths, *assignments)
    return data.load(recipe, BUILTIN)


TRAIN = [problem(n) for n in range(1, 17)]


@pytest.mark.parametrize(
    "answer", ["#### 1/2", "#### 2:30", "#### 1e6", "#### 3 1/2", "#### 12-15", "#### 10.", "10"]
)
def test_a_truth_that_is_not_one_number_is_refused_with_file_and_line(tmp_path, answer):
    train = [*TRAIN[:4], problem(99, answer), problem(98, answer), *TRAIN[4:]]
    with pytest.raises(HarnessError, match=r"train\.jsonl, line 5: no number after '#### '"):
        load(write(tmp_path, train, [problem(50)]))


def test_a_step_that_begins_like_a_tag_is_not_the_truth(tmp_path):
    steps = problem(10, "#### 1. Count the pears\n8+2=10\n#### 10")
    loaded = load(write(tmp_path, TRAIN, [steps]))
    batch = loaded.test[0]
    assert batch is not None
    assert batch["answer"].tolist() == ["10"]


def test_a_truth_that_the_reward_does_not_pay_for_is_refused_with_the_first_line(tmp_path):
    train = [*TRAIN, problem(12345), problem(123456)]
    source = write(tmp_path, train, [problem(50)])
    # Ten characters hold `#### 12345`, and cut the tag of `#### 123456`.
    with pytest.raises(HarnessError, match=r"train\.jsonl, line 18: the truth '123456'.*is 10\)"):
        load(source, "reward.clip_chars=10")
    assert load(source, "reward.clip_chars=11").problems["train"] == 18


def test_what_an_earlier_reader_prepared_is_held_to_the_rule_too(tmp_path, monkeypatch):
    source = write(tmp_path, [*TRAIN[:3], problem(9, "#### 9/2"), *TRAIN[3:]], [problem(50)])
    with monkeypatch.context() as patch:
        patch.setattr(gsm8k, "extract_answer", lambda answer: "9")
        gsm8k.prepare(source, data.cache_root())
    (prepared,) = (data.cache_root() / "gsm8k").iterdir()
    with pytest.raises(HarnessError, match=r"train\.jsonl, line 4: no number after"):
        load(source)
    # A folder of TFDS has no lines.
    with pytest.raises(HarnessError, match=rf"data.source tfds:{prepared}, train problem \d+: no"):
        load(f"tfds:{prepared}")


def test_the_built_in_problems_are_held_to_the_rule():
    with pytest.raises(HarnessError, match=r"data.source arithmetic, train problem 1: the truth"):
        load("arithmetic", "reward.clip_chars=5")


def test_a_function_of_the_users_own_is_no_rule_for_truths(tmp_path):
    source = write(tmp_path, TRAIN, [problem(50)])
    own = ("reward.function=tests.integration.test_runs:always_two", "reward.clip_chars=1")
    assert load(source, *own).problems["train"] == 16


def ids(dataset: data.Dataset) -> list[str]:
    return [each.id for each in dataset.warnings]


def test_problems_in_both_splits_are_reported(tmp_path):
    twin = Problem("a shop has 3  hats. How many?\n", "#### 3")
    found = load(write(tmp_path, TRAIN, [problem(50), twin]))
    assert ids(found) == ["train-test-overlap"]
    assert found.warnings[0].text.startswith("1 test problem(s) are training problems too")
    assert ids(load(write(tmp_path, TRAIN, [problem(50)]))) == []


@pytest.mark.parametrize(
    ("number", "unusual"),
    [
        *((number, True) for number in ("2.50", "007", ".5", "10.0", "-0", "-01")),
        *((number, False) for number in ("2.5", "0.5", "100", "0", "-3", "1,000", "-0.5")),
    ],
)
def test_numbers_that_another_form_would_not_match_are_reported(number, unusual):
    found = truths.warnings({"train": [problem(1, f"#### {number}")], "test": []})
    assert [each.id for each in found] == ["unusual-truths"] * unusual


@pytest.mark.parametrize("long_prompts", ["refuse", "drop"])
def test_a_data_set_none_of_whose_prompts_fits_is_refused(tmp_path, long_prompts):
    source = write(tmp_path, TRAIN, [problem(3)])
    with pytest.raises(HarnessError, match=r"none of the 16 train prompts fits .* = 9 ") as refusal:
        load(source, "rollout.max_prompt_length=9", f"data.long_prompts={long_prompts}")
    shortest = re.findall(r"the shortest has (\d+)", str(refusal.value))[0]
    fitting = load(
        source, f"rollout.max_prompt_length={shortest}", "data.long_prompts=drop"
    ).problems["train"]
    assert 0 < fitting <= 16
