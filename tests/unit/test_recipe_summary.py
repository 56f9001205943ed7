import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harness import recipe as recipe_lib
from harness.upstream.engine import cluster


def _is_adam(state) -> bool:
    return isinstance(state, optax.ScaleByAdamState)


def warnings(recipe: recipe_lib.Recipe) -> dict[str, str]:
    return {each.id: each.text for each in recipe_lib.summarize(recipe).warnings}


def test_the_reference_stops_after_five_of_its_ten_batches():
    found = recipe_lib.summarize(recipe_lib.load("gemma3-1b"))
    # 10 batches of 16 by mini-batches of 8 make max_steps 20; two mini-batches
    # times two epochs make 4 optimizer steps a batch.
    assert (found.batches, found.max_steps, found.optimizer_steps_per_batch) == (10, 20, 4)
    assert (found.global_steps, found.optimizer_steps, found.rollouts) == (5, 20, 80)
    assert (found.problems_used, found.problems_available) == (80, 7473)
    assert "after 5 of 10 batches" in warnings(recipe_lib.load("gemma3-1b"))["stops-early"]


def test_the_references_other_warnings_are_named():
    found = warnings(recipe_lib.load("gemma3-1b"))
    assert "<end_of_turn>" in found["no-end-of-turn"]
    assert "over 4 sequences, not over the batch of 16" in found["whitening-group"]
    assert {
        "first-step-does-nothing",
        "mini-batches-are-on-policy",
        "micro-batch-changes-gradient",
        "temperature-off-policy",
        "truncated-sampling",
        "few-problems",
    } <= found.keys()


CURES = {
    "stops-early": ["optimizers.max_steps=all"],
    "no-end-of-turn": ['rollout.stop_tokens=["<eos>", "<end_of_turn>"]'],
    "whitening-group": ["batching.mini_batch_size=16", "batching.rollout_micro_batch_size=16"],
    "mini-batches-are-on-policy": ["batching.mini_batch_size=16"],
    "micro-batch-changes-gradient": ["batching.train_micro_batch_size=8"],
    "temperature-off-policy": ["rollout.temperature=1.0"],
    "truncated-sampling": ["rollout.top_k=none"],
    "first-step-does-nothing": ["optimizers.warmup_fraction=0.0"],
}


@pytest.mark.parametrize(("warning", "cure"), CURES.items())
def test_a_warning_goes_when_its_cause_goes(warning, cure):
    assert warning in warnings(recipe_lib.load("gemma3-1b"))
    assert warning not in warnings(recipe_lib.load("gemma3-1b", assignments=cure))


CAUSES = {
    "overshoots": ["optimizers.max_steps=6"],
    "no-checkpoint-at-max-steps": ["optimizers.max_steps=6"],
    "kl-at-two-temperatures": ["ppo.beta=0.1"],
    "cache-too-large": ["rollout.cache_size=2048"],
    "evaluation-by-another-rule": ["evaluation.rule=reference", "reward.clip_chars=4000"],
    "right-by-threshold": ["reward.function=tests.integration.test_runs:always_two"],
}


@pytest.mark.parametrize(("warning", "cause"), CAUSES.items())
def test_a_warning_comes_with_its_cause(warning, cause):
    assert warning not in warnings(recipe_lib.load("gemma3-1b"))
    assert warning in warnings(recipe_lib.load("gemma3-1b", assignments=cause))


@pytest.mark.parametrize(
    "assignments",
    [
        ["reward.clip_chars=4000"],
        ["evaluation.rule=reference"],
        ["evaluation.rule=reference", "reward.timeout_seconds=5"],
        ["evaluation.rule=reward", "reward.correct=10"],
    ],
)
def test_no_warning_where_what_is_measured_is_what_is_trained_for(assignments):
    found = warnings(recipe_lib.load("gemma3-1b", assignments=assignments))
    assert not {"evaluation-by-another-rule", "right-by-threshold"} & found.keys()


def test_the_tiny_preset_uses_every_batch():
    found = recipe_lib.summarize(recipe_lib.load("tiny"))
    assert found.global_steps == found.batches


@pytest.mark.parametrize(
    ("mini", "train", "rollout", "logps", "groups"),
    [
        (8, 2, 4, 4, (4, 4)),
        (8, 8, 4, 4, (8,)),
        (8, 2, 1, 1, (2, 2, 2, 2)),
        (8, 1, 1, 1, (1,) * 8),
        (8, 4, 2, 16, (8,)),
        (8, 2, 2, 4, (4, 4)),
        (16, 4, 2, 2, (4, 4, 4, 4)),
    ],
)
def test_whitening_groups_by_hand(mini, train, rollout, logps, groups):
    batching = recipe_lib.Batching(
        rollout_batch_size=16,
        mini_batch_size=mini,
        train_micro_batch_size=train,
        rollout_micro_batch_size=rollout,
        compute_logps_micro_batch_size=logps,
    )
    assert recipe_lib.whitening_groups(batching) == groups


@pytest.mark.parametrize("preset", sorted(recipe_lib.PRESETS))
def test_learning_rates_are_those_of_the_optimizer_that_is_built(preset):
    recipe = recipe_lib.load(preset)
    schedule = cluster.make_schedule(recipe, 1e-3)
    steps = range(recipe_lib.max_steps(recipe) + 3)
    mine = [recipe_lib.learning_rate(recipe, 1e-3, step) for step in steps]
    built = np.asarray([schedule(step) for step in steps], np.float64)
    # optax computes in float32: half a unit in the last place of the peak, a few times over.
    assert mine == pytest.approx(built, abs=1e-9)


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    rates = recipe_lib.summarize(recipe_lib.load("gemma3-1b")).actor_learning_rate
    assert rates.first == 0.0
    assert rates.peak == pytest.approx(1e-6)
    # Step 19 of 20, two of them warm-up: cosine at 17/18 of its way.
    assert rates.last == pytest.approx(0.5e-6 * (1 + math.cos(math.pi * 17 / 18)))


def test_the_optimizer_clips_by_global_norm_only_if_asked():
    clipped = cluster.make_optimizer(recipe_lib.load("tiny"), 1e-3)
    plain = cluster.make_optimizer(
        recipe_lib.load("tiny", assignments=["optimizers.max_grad_norm=none"]), 1e-3
    )
    huge, weight = jnp.array([3e4, 4e4]), jnp.zeros(2)

    def first_moment(optimizer):
        _, state = optimizer.update(huge, optimizer.init(weight), weight)
        (moments,) = [s for s in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(s)]
        return moments.mu / (1 - 0.9)

    # A gradient of norm 5e4 is seen with norm 1, or as it is.
    np.testing.assert_allclose(first_moment(clipped), [0.6, 0.8], rtol=1e-5)
    np.testing.assert_allclose(first_moment(plain), huge, rtol=1e-5)


def test_the_cache_of_the_reference_by_hand():
    # 2 (key, value) x 26 layers x 4 sequences x 1024 positions x 1 head x 256 x 4 bytes.
    assert recipe_lib.summarize(recipe_lib.load("gemma3-1b")).cache_bytes == 218_103_808


def test_max_steps_by_number_by_reference_and_for_all():
    recipe = recipe_lib.load("gemma3-1b")
    assert recipe_lib.max_steps(recipe) == 20
    assert recipe_lib.max_steps(recipe_lib.replace(recipe, "optimizers.max_steps=all")) == 40
    assert recipe_lib.max_steps(recipe_lib.replace(recipe, "optimizers.max_steps=7")) == 7
    assert recipe_lib.global_steps(recipe_lib.replace(recipe, "optimizers.max_steps=7")) == 2
