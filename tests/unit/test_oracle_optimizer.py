"""The oracle's learning rate, clipping, accumulation and AdamW."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.oracle import optimizer
from tests.support.oracle import PROPERTY


def tensors(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {"a": scale * rng.normal(size=(3, 4)), "b": scale * rng.normal(size=5)}


def test_learning_rate_rises_linearly_then_falls_as_half_a_cosine():
    rates = [optimizer.learning_rate(step, 8.0, 2, 6) for step in range(7)]
    # 0, half way up, the peak; then progress 1/4, 1/2, 3/4, 1 of the cosine:
    # (1 + cos 45°) / 2, 1/2, (1 - cos 45°) / 2, 0.
    root = math.sqrt(0.5)
    expected = [0, 4, 8, 4 * (1 + root), 4, 4 * (1 - root), 0]
    assert rates == pytest.approx(expected, rel=1e-12, abs=1e-12)  # Float64 rounding.


def test_learning_rate_past_the_end_is_zero():
    assert [optimizer.learning_rate(step, 1.0, 1, 4) for step in (4, 5, 100)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("warmup", "total"), [(2, 20), (0, 7), (0.3, 3), (2.5, 9), (1.7, 17), (9, 10)]
)
def test_learning_rate_is_that_of_optax(warmup: Any, total: int):
    theirs = optax.schedules.warmup_cosine_decay_schedule(0.0, 3e-3, warmup, total, 0.0)
    ours = [optimizer.learning_rate(step, 3e-3, warmup, total) for step in range(25)]
    # Optax works in float32: 1e-6 of the peak is about ten roundings.
    np.testing.assert_allclose(
        ours, [float(np.asarray(theirs(step))) for step in range(25)], rtol=0, atol=3e-9
    )


@pytest.mark.parametrize(("step", "warmup", "total"), [(-1, 1, 2), (0, -1, 2), (0, 2, 2)])
def test_learning_rate_refuses_what_has_no_meaning(step, warmup, total):
    with pytest.raises(ValueError, match="steps"):
        optimizer.learning_rate(step, 1.0, warmup, total)


def test_clipping_scales_all_gradients_by_one_factor():
    gradients = {"a": np.array([3.0]), "b": np.array([[4.0, 0.0]])}
    assert optimizer.global_norm(gradients) == 5.0  # 9 + 16 = 25.
    clipped = optimizer.clip_by_global_norm(gradients, 2.5)  # Half of 5.
    np.testing.assert_array_equal(clipped["a"], [1.5])
    np.testing.assert_array_equal(clipped["b"], [[2.0, 0.0]])


@pytest.mark.parametrize("bound", [5.0, 5.1])
def test_clipping_leaves_gradients_within_the_bound_alone(bound):
    clipped = optimizer.clip_by_global_norm({"a": np.array([3.0, 4.0])}, bound)
    np.testing.assert_array_equal(clipped["a"], [3.0, 4.0])


def test_clipping_zero_gradients_gives_zero():
    clipped = optimizer.clip_by_global_norm({"a": np.zeros(3)}, 1.0)
    np.testing.assert_array_equal(clipped["a"], np.zeros(3))


def test_clipping_refuses_a_bound_that_is_not_positive():
    with pytest.raises(ValueError, match="positive"):
        optimizer.clip_by_global_norm({"a": np.ones(1)}, 0.0)


@PROPERTY
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_clipped_norm_is_the_smaller_of_norm_and_bound(seed, scale, bound):
    gradients = tensors(seed, scale)
    norm = optimizer.global_norm(optimizer.clip_by_global_norm(gradients, bound))
    expected = min(optimizer.global_norm(gradients), bound)
    assert norm == pytest.approx(expected, rel=1e-12)  # Float64 rounding.


def test_accumulation_is_the_mean_of_micro_batches():
    micro = [{"a": np.array([1.0, 0.0])}, {"a": np.array([3.0, 6.0])}, {"a": np.array([5.0, 0.0])}]
    np.testing.assert_array_equal(optimizer.accumulate(micro)["a"], [3.0, 2.0])


@pytest.mark.parametrize("micro", [[], [{"a": np.ones(1)}, {"b": np.ones(1)}]])
def test_accumulation_refuses_nothing_and_mixed_names(micro):
    with pytest.raises(ValueError, match="micro-batch"):
        optimizer.accumulate(micro)


def test_first_step_moves_each_weight_by_the_rate_against_the_sign():
    weights = {"a": np.array([1.0, 2.0, -3.0, 4.0])}
    gradients = {"a": np.array([0.01, -50.0, 7.0, 0.0])}
    state = optimizer.initial_state(weights)
    moved, state = optimizer.adamw_step(weights, gradients, state, 0.125, 0.9, 0.999, eps=1e-30)
    # Corrected, the moments are g and g^2, so each step is g / |g|.
    expected = [0.875, 2.125, -3.125, 4.0]
    np.testing.assert_allclose(moved["a"], expected, rtol=1e-12)  # Float64 rounding.
    # (1 - 0.9) g and (1 - 0.999) g^2.
    assert state.step == 1
    np.testing.assert_allclose(state.mean["a"], [0.001, -5.0, 0.7, 0.0], rtol=1e-12)
    np.testing.assert_allclose(state.variance["a"], [1e-7, 2.5, 0.049, 0.0], rtol=1e-12)


def test_second_step_by_hand():
    weights, state = {"a": np.array([10.0])}, optimizer.initial_state({"a": np.zeros(1)})
    for gradient in (2.0, 4.0):
        weights, state = optimizer.adamw_step(
            weights, {"a": np.array([gradient])}, state, 1.0, 0.5, 0.75, eps=1.0, weight_decay=0.1
        )
    # Step 1: m = 1, v = 1; corrected 2 and 4; 2 / (2 + 1) = 2/3, decay 0.1 * 10.
    first = 10 - 2 / 3 - 1
    # Step 2: m = 2.5, over 1 - 0.25 is 10/3; v = 0.75 + 4 = 4.75, over 1 - 0.5625
    # is 76/7.
    second = first - (10 / 3) / (math.sqrt(76 / 7) + 1) - 0.1 * first
    np.testing.assert_allclose(weights["a"], [second], rtol=1e-12)  # Float64 rounding.


def test_zero_gradient_with_decay_only_shrinks_weights():
    weights = tensors(0)
    zeros = {name: np.zeros_like(weight) for name, weight in weights.items()}
    moved, _ = optimizer.adamw_step(
        weights, zeros, optimizer.initial_state(weights), 0.5, 0.9, 0.999, weight_decay=0.25
    )
    # 1 - 0.5 * 0.25 = 0.875 of each.
    for name, weight in weights.items():
        np.testing.assert_allclose(moved[name], 0.875 * weight, rtol=1e-12)  # Float64 rounding.


def test_zero_rate_moves_no_weight_but_remembers_the_gradient():
    weights = tensors(0)
    moved, state = optimizer.adamw_step(
        weights, tensors(1), optimizer.initial_state(weights), 0.0, 0.9, 0.999, weight_decay=0.1
    )
    np.testing.assert_array_equal(moved["a"], weights["a"])
    assert state.step == 1
    assert np.all(state.mean["a"] != 0)


def test_a_step_changes_neither_weights_nor_state_it_was_given():
    weights = tensors(0)
    state = optimizer.initial_state(weights)
    optimizer.adamw_step(weights, tensors(1), state, 0.1, 0.9, 0.999, weight_decay=0.1)
    np.testing.assert_array_equal(weights["a"], tensors(0)["a"])
    np.testing.assert_array_equal(state.mean["a"], np.zeros((3, 4)))
    assert state.step == 0


def test_a_step_refuses_gradients_of_other_weights():
    weights = {"a": np.zeros(3)}
    for wrong in ({"b": np.zeros(3)}, {"a": np.zeros(1)}):
        with pytest.raises(ValueError, match="same names and shapes"):
            optimizer.adamw_step(weights, wrong, optimizer.initial_state(weights), 0.1, 0.9, 0.999)


# In float32 one rounding is 6e-8, and 1 - 0.999 in float32 is off by 5e-5 of
# itself, which moves a step by 2e-5 of its size; steps are a hundredth of a
# weight. In float64 nothing but rounding is left, and it shows any slip.
@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("bound", [None, 0.5])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_training_is_that_of_optax(dtype, rtol, bound, micro_batches):
    # A whole number of steps would make optax divide integers, in float32.
    warmup: Any = 1.5
    config = optimizer.TrainConfig(
        peak=0.02,
        warmup_steps=warmup,
        total_steps=6,
        b1=0.9,
        b2=0.999,
        weight_decay=0.3,
        max_grad_norm=bound,
    )
    start = {name: 2.0 + np.abs(each) for name, each in tensors(0).items()}
    # Scales on both sides of the bound, so that clipping sets in at some steps only.
    gradients = [
        [tensors(1 + 10 * step + micro, 0.02 * 4**step) for micro in range(micro_batches)]
        for step in range(5)
    ]
    norms = [optimizer.global_norm(optimizer.accumulate(each)) for each in gradients]
    assert min(norms) < 0.5 < max(norms)
    with jax.enable_x64(dtype == "float64"):
        schedule = optax.schedules.warmup_cosine_decay_schedule(0.0, 0.02, warmup, 6, 0.0)
        adamw = optax.adamw(schedule, b1=0.9, b2=0.999, weight_decay=0.3)
        clip = optax.identity() if bound is None else optax.clip_by_global_norm(bound)
        chain = optax.MultiSteps(
            optax.chain(clip, adamw), micro_batches, accumulator_dtype=jnp.dtype(dtype)
        )
        params: Any = jax.tree.map(lambda each: jnp.asarray(each, dtype), start)
        state = jax.jit(chain.init)(params)

        @jax.jit
        def update(gradients: Any, state: Any, params: Any):
            updates, state = chain.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        for step, micro in enumerate(gradients):
            for each in micro:
                given_gradients = jax.tree.map(lambda g: jnp.asarray(g, dtype), each)
                params, state = update(given_gradients, state, params)
            ours, after = optimizer.train(start, gradients[: step + 1], config)
            assert after.step == step + 1
            for name, weight in ours.items():
                assert params[name].dtype == dtype
                np.testing.assert_allclose(weight, params[name], rtol=rtol)


def test_training_goes_on_from_a_state_as_if_never_stopped():
    config = optimizer.TrainConfig(peak=0.1, warmup_steps=2, total_steps=8, max_grad_norm=1.0)
    gradients = [[tensors(10 * step), tensors(10 * step + 1)] for step in range(5)]
    whole, whole_state = optimizer.train(tensors(99), gradients, config)
    half, state = optimizer.train(tensors(99), gradients[:2], config)
    rest, rest_state = optimizer.train(half, gradients[2:], config, state)
    assert rest_state.step == whole_state.step == 5
    for name in whole:
        np.testing.assert_array_equal(rest[name], whole[name])


def test_training_clips_the_mean_not_each_micro_batch():
    # The mean of 8 and 0 is 4, clipped to 1: all that the first moment keeps is
    # 0.5 of it. Clipped apart, the mean would be 0.5, and 0.25 kept.
    config = optimizer.TrainConfig(
        peak=1.0, warmup_steps=0, total_steps=2, b1=0.5, max_grad_norm=1.0
    )
    micro = [{"a": np.array([8.0])}, {"a": np.array([0.0])}]
    _, state = optimizer.train({"a": np.zeros(1)}, [micro], config)
    np.testing.assert_array_equal(state.mean["a"], [0.5])
