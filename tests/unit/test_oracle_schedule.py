"""The oracle's schedule, beside a recipe's summary."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import recipe as recipe_lib
from harness.oracle import optimizer
from harness.oracle import schedule as schedule_lib
from tests.support.oracle import PROPERTY


def test_schedule_by_hand():
    uses = schedule_lib.schedule(2, 4, 2, 1, 2, 8)
    # (problem, batch, mini-batch, micro-batch, epoch, optimizer step)
    first = [
        (0, 0, 0, 0, 0, 0),
        (1, 0, 0, 1, 0, 0),
        (2, 0, 1, 0, 0, 1),
        (3, 0, 1, 1, 0, 1),
        (0, 0, 0, 0, 1, 2),
        (1, 0, 0, 1, 1, 2),
        (2, 0, 1, 0, 1, 3),
        (3, 0, 1, 1, 1, 3),
    ]
    # The second batch does the same with the next four problems and steps.
    second = [(p + 4, 1, mini, micro, epoch, step + 4) for p, _, mini, micro, epoch, step in first]
    assert [dataclasses.astuple(use) for use in uses] == first + second


@pytest.mark.parametrize(
    ("max_steps", "batches"), [(1, 1), (4, 1), (5, 2), (6, 2), (8, 2), (99, 3)]
)
def test_schedule_looks_at_max_steps_after_whole_batches(max_steps, batches):
    # Two mini-batches by two epochs: 4 steps a batch, of 3 batches.
    uses = schedule_lib.schedule(3, 4, 2, 2, 2, max_steps)
    assert schedule_lib.global_steps(uses) == batches
    assert schedule_lib.optimizer_steps(uses) == 4 * batches
    assert schedule_lib.generations(uses) == batches


def test_schedule_takes_each_epoch_in_its_own_order():
    orders = {(0, 0): (2, 0, 3, 1), (0, 1): (1, 3, 0, 2)}
    uses = schedule_lib.schedule(1, 4, 2, 2, 2, 4, lambda *key: orders[key])
    assert [use.problem for use in uses] == [2, 0, 3, 1, 1, 3, 0, 2]
    assert [use.optimizer_step for use in uses] == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(ValueError, match="each sequence of its batch once"):
        schedule_lib.schedule(1, 4, 2, 2, 2, 4, lambda *key: (0, 0, 1, 2))


@PROPERTY
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 30),
)
def test_schedule_uses_each_problem_in_each_epoch_once(
    batches, minis, micros, micro, epochs, limit
):
    mini_batch = micros * micro
    batch = minis * mini_batch
    uses = schedule_lib.schedule(batches, batch, mini_batch, micro, epochs, limit)
    done = schedule_lib.global_steps(uses)
    assert sorted((use.problem, use.epoch) for use in uses) == [
        (problem, epoch) for problem in range(done * batch) for epoch in range(epochs)
    ]
    assert done == batches or (done - 1) * minis * epochs < limit <= done * minis * epochs
    steps: dict[int, list] = {}
    for use in uses:
        steps.setdefault(use.optimizer_step, []).append(use)
    assert list(steps) == list(range(done * minis * epochs))
    for members in steps.values():
        assert len({(use.batch, use.mini_batch, use.epoch) for use in members}) == 1
        assert [use.micro_batch for use in members] == sorted(list(range(micros)) * micro)


@pytest.mark.parametrize(
    "sizes", [(0, 4, 2, 1, 1, 1), (1, 4, 2, 1, 0, 1), (1, 4, 2, 1, 1, 0), (1, 4, 3, 1, 1, 1)]
)
def test_schedule_refuses_sizes_that_do_not_divide_or_are_none(sizes):
    with pytest.raises(ValueError, match=r"positive|divide"):
        schedule_lib.schedule(*sizes)


@pytest.mark.parametrize("preset", ["gemma3-1b", "tiny"])
def test_schedule_and_account_agree(preset):
    recipe = recipe_lib.load(preset)
    summary = recipe_lib.summarize(recipe)
    batching = recipe.batching
    uses = schedule_lib.schedule(
        summary.batches,
        batching.rollout_batch_size,
        batching.mini_batch_size,
        batching.train_micro_batch_size,
        recipe.ppo.num_epochs,
        summary.max_steps,
    )
    assert schedule_lib.global_steps(uses) == summary.global_steps
    assert schedule_lib.optimizer_steps(uses) == summary.optimizer_steps
    assert len({use.problem for use in uses}) == summary.rollouts
    assert 1 + max(use.micro_batch for use in uses) == summary.gradient_accumulation
    calls = batching.rollout_batch_size // batching.rollout_micro_batch_size
    assert schedule_lib.generations(uses) * calls == summary.generations


@pytest.mark.parametrize("preset", ["gemma3-1b", "tiny"])
def test_learning_rate_and_account_agree(preset):
    recipe = recipe_lib.load(preset)
    summary = recipe_lib.summarize(recipe)
    peak = recipe.optimizers.actor_learning_rate
    warmup = recipe.optimizers.warmup_fraction * summary.max_steps
    rates = [
        optimizer.learning_rate(step, peak, warmup, summary.max_steps)
        for step in range(summary.optimizer_steps)
    ]
    found = summary.actor_learning_rate
    assert (rates[0], max(rates), rates[-1]) == pytest.approx((found.first, found.peak, found.last))
