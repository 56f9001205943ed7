"""Batches: which problems they hold, in which order, and what is too long."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from harness import data
from harness import recipe as recipes
from harness.data import arithmetic, prompt
from harness.errors import HarnessError
from tests.support.data import (
    BUILTIN,
    TINY,
    hats,
    make_problem,
    prompts_of,
    sampler_length,
    write_jsonl,
)


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch) -> pathlib.Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(folder))
    return folder


@pytest.fixture
def source(tmp_path) -> str:
    return hats(tmp_path / "local")


def _recipe(*assignments: str) -> recipes.Recipe:
    return recipes.replace(
        TINY,
        "data.num_batches=5",
        "data.num_test_batches=2",
        "data.arithmetic.train_problems=43",
        "data.arithmetic.test_problems=11",
        "batching.rollout_batch_size=8",
        "batching.mini_batch_size=8",
        "batching.train_micro_batch_size=8",
        "batching.rollout_micro_batch_size=8",
        "batching.compute_logps_micro_batch_size=8",
        *assignments,
    )


def _questions(batches: Any) -> list[str]:
    return [str(question) for batch in batches for question in batch["question"]]


def test_every_train_batch_is_full_and_every_problem_in_it_is_distinct():
    dataset = data.load(_recipe(), BUILTIN)
    assert len(dataset.train) == 5
    assert all(len(column) == 8 for batch in dataset.train for column in batch.values())
    assert len(set(_questions(dataset.train))) == 40
    assert dataset.problems == {"train": 43, "test": 11}
    assert dataset.validation is None


def test_the_last_partial_test_batch_is_kept():
    dataset = data.load(_recipe(), BUILTIN)
    assert [len(batch["question"]) for batch in dataset.test] == [8, 3]
    assert len(set(_questions(dataset.test))) == 11


def test_only_as_many_test_batches_as_asked_are_given():
    dataset = data.load(_recipe("data.num_test_batches=1"), BUILTIN)
    assert [len(batch["question"]) for batch in dataset.test] == [8]


def test_columns_belong_together():
    recipe = _recipe()
    train, test = arithmetic.problems(recipe.data.arithmetic)
    dataset = data.load(recipe, BUILTIN)
    for problems, batches in ((train, dataset.train), (test, dataset.test)):
        answers = {problem.question: problem.answer for problem in problems}
        for batch in batches:
            for text, question, answer in zip(
                batch["prompts"], batch["question"], batch["answer"], strict=True
            ):
                assert text == prompt.format_prompt(recipe.data, question)
                assert answer == answers[question].split("#### ")[1]


def test_batches_pass_through_what_tunix_does_with_them():
    batch: Any = data.load(_recipe(), BUILTIN).train[0]
    assert sorted(batch) == ["answer", "prompts", "question"]
    repeated = jax.tree.map(lambda column: np.repeat(column, 2, axis=0), batch)
    for name, column in repeated.items():
        assert isinstance(batch[name], np.ndarray)
        assert list(column.flatten()) == [text for text in batch[name] for _ in range(2)]
        assert all(isinstance(text, str) for text in column.flatten())


def test_train_and_test_share_no_question():
    dataset = data.load(_recipe(), BUILTIN)
    assert not set(_questions(dataset.train)) & set(_questions(dataset.test))


def test_problems_are_shuffled_by_the_shuffle_seed_alone():
    recipe = _recipe()
    written = [problem.question for problem in arithmetic.problems(recipe.data.arithmetic)[0]]
    order = _questions(data.load(recipe, BUILTIN).train)
    assert order != written[:40]
    assert _questions(data.load(_recipe("seed=7"), BUILTIN).train) == order
    assert _questions(data.load(_recipe("data.shuffle_seed=7"), BUILTIN).train) != order


def test_validation_is_the_rest_of_the_batches():
    whole = data.load(_recipe(), BUILTIN)
    split = data.load(_recipe("data.train_fraction=0.6"), BUILTIN)
    assert split.validation is not None
    assert (len(split.train), len(split.validation)) == (3, 2)
    assert _questions(split.train) + _questions(split.validation) == _questions(whole.train)


def test_every_epoch_reads_the_same_batches_and_none_that_are_held_back():
    once = _questions(data.load(_recipe(), BUILTIN).train)
    twice = data.load(_recipe("data.num_epochs=2"), BUILTIN).train
    assert len(twice) == 10
    assert _questions(twice) == once + once
    split = data.load(_recipe("data.num_epochs=3", "data.train_fraction=0.6"), BUILTIN)
    assert not set(_questions(split.train)) & set(_questions(split.validation))


def test_both_sources_make_the_same_kind_of_batch(source):
    local = data.load(_recipe(f"data.source={source}", *_limit(40)), BUILTIN)
    assert local.problems == {"train": 43, "test": 11}
    assert len(set(_questions(local.train))) == 40
    assert {make_problem(n).question for n in range(43)} >= set(_questions(local.train))
    assert set(_questions(local.test)) == {make_problem(n).question for n in range(50, 61)}
    assert {str(answer) for batch in local.test for answer in batch["answer"]} == {
        str(n) for n in range(51, 62)
    }


def test_too_few_training_problems_are_refused():
    with pytest.raises(
        HarnessError, match=r"num_batches is 6 but 43 training problems make 5 full batches of 8"
    ):
        data.load(_recipe("data.num_batches=6"), BUILTIN)


def _with_long_prompts(tmp_path) -> tuple[str, int]:
    """41 short and 3 long training prompts, and the longest short one's tokens."""
    train = [make_problem(n) for n in range(41)] + [make_problem(n, words=2) for n in (41, 42, 43)]
    source = write_jsonl(tmp_path / "long", train, [make_problem(n) for n in range(50, 60)])
    questions = [make_problem(n).question for n in [*range(41), *range(50, 60)]]
    return source, max(
        sampler_length(prompt.format_prompt(TINY.data, question)) for question in questions
    )


def _limit(tokens: int) -> list[str]:
    return [f"rollout.max_prompt_length={tokens}", f"rollout.cache_size={tokens + 8}"]


def test_long_prompts_are_refused_with_count_and_length(tmp_path):
    source, limit = _with_long_prompts(tmp_path)
    longest = max(
        sampler_length(prompt.format_prompt(TINY.data, make_problem(n, words=2).question))
        for n in (41, 42, 43)
    )
    recipe = _recipe(
        f"data.source={source}", "batching.rollout_batch_size=44", "batching.mini_batch_size=44",
        "batching.train_micro_batch_size=44", "batching.rollout_micro_batch_size=44",
        "batching.compute_logps_micro_batch_size=44", "data.num_batches=1", *_limit(limit),
    )  # fmt: skip
    with pytest.raises(
        HarnessError,
        match=rf"3 of the 44 train prompts .* {limit} tokens \(the longest has {longest}\): raise "
        r"rollout\.max_prompt_length, or set data\.long_prompts to drop",
    ):
        data.load(recipe, BUILTIN)
    assert data.load(recipes.replace(recipe, *_limit(longest)), BUILTIN).problems["train"] == 44


def test_long_prompts_that_are_not_used_are_not_refused(tmp_path):
    source, limit = _with_long_prompts(tmp_path)
    unused = _recipe(f"data.source={source}", "data.num_batches=1", *_limit(limit))
    everything = recipes.replace(unused, *_limit(2 * limit), "data.num_batches=5")
    shuffled = prompts_of(data.load(everything, BUILTIN).train)
    used_long = sum(sampler_length(text) > limit for text in shuffled[:8])
    assert used_long == 0
    assert prompts_of(data.load(unused, BUILTIN).train) == shuffled[:8]


def test_dropped_prompts_are_counted_and_batches_stay_full(tmp_path):
    source, limit = _with_long_prompts(tmp_path)
    recipe = _recipe(f"data.source={source}", "data.long_prompts=drop", *_limit(limit))
    dataset = data.load(recipe, BUILTIN)
    assert dataset.long_prompts == {"train": 3, "test": 0}
    assert dataset.problems == {"train": 41, "test": 10}
    prompts = prompts_of(dataset.train)
    assert len(set(prompts)) == 40
    assert all(sampler_length(text) <= limit for text in prompts)


def test_too_few_problems_after_dropping_say_so(tmp_path):
    source, limit = _with_long_prompts(tmp_path)
    recipe = _recipe(
        f"data.source={source}", "data.long_prompts=drop", "data.num_batches=6", *_limit(limit)
    )
    with pytest.raises(
        HarnessError, match=r"41 training problems \(after 3 with long prompts were dropped\)"
    ):
        data.load(recipe, BUILTIN)


def test_no_test_problem_left_is_refused(tmp_path):
    source = write_jsonl(
        tmp_path / "short", [make_problem(n) for n in range(8)], [make_problem(9, words=9)]
    )
    limit = max(
        sampler_length(prompt.format_prompt(TINY.data, make_problem(n).question)) for n in range(8)
    )
    recipe = _recipe(
        f"data.source={source}", "data.long_prompts=drop", "data.num_batches=1", *_limit(limit)
    )
    with pytest.raises(HarnessError, match=r"no test problems \(after 1 with long prompts were"):
        data.load(recipe, BUILTIN)


@pytest.mark.parametrize("local", [False, True])
def test_supervised_problems_are_the_whole_training_split_in_a_fixed_order(source, local):
    recipe = _recipe(f"data.source={source}") if local else _recipe()
    problems = data.supervised_problems(recipe)
    assert problems == data.supervised_problems(recipe)
    expected = (
        [make_problem(n) for n in range(43)]
        if local
        else arithmetic.problems(recipe.data.arithmetic)[0]
    )
    assert sorted(problems) == sorted(expected)
