"""The oracle's optimizer, sampling distribution, rollout bookkeeping and schedule."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import recipe as recipe_lib
from harness.oracle import optimizer, rollout, sampling
from harness.oracle import schedule as schedule_lib

PROPERTY = settings(max_examples=50, deadline=None, derandomize=True)

logits_rows = st.lists(st.floats(-8, 8), min_size=2, max_size=12)


def tensors(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {"a": scale * rng.normal(size=(3, 4)), "b": scale * rng.normal(size=5)}


# Learning rate


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


# Clipping and accumulation


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


# AdamW


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


# Sampling


def test_distribution_of_plain_logits_is_softmax():
    # Weights 1, 3, 4 over 8; at temperature 1/2, squared: 1, 9, 16 over 26.
    logits = np.log([1.0, 3.0, 4.0])
    np.testing.assert_allclose(sampling.distribution(logits, 1.0), [0.125, 0.375, 0.5])
    np.testing.assert_allclose(sampling.distribution(logits, 0.5), np.array([1, 9, 16]) / 26)


def test_top_k_keeps_the_likeliest_and_the_lowest_ids_of_equals():
    logits = np.log([1.0, 2.0, 4.0, 2.0, 2.0])
    # 4 first, then the 2s by id: ids 2, 1, 3.
    np.testing.assert_allclose(
        sampling.distribution(logits, 1.0, top_k=3), [0, 0.25, 0.5, 0.25, 0], atol=1e-15
    )


def test_nucleus_keeps_the_token_that_crosses_the_bound():
    # Probabilities 1/2, 1/4, 1/8, 1/8.
    logits = np.log([4.0, 8.0, 2.0, 2.0])
    # 0.6 is crossed by the second, so 1/2 and 1/4 stay: 2/3 and 1/3.
    np.testing.assert_allclose(
        sampling.distribution(logits, 1.0, top_p=0.6), [1 / 3, 2 / 3, 0, 0], atol=1e-15
    )
    # The first alone reaches 0.4.
    np.testing.assert_array_equal(sampling.distribution(logits, 1.0, top_p=0.4), [0, 1, 0, 0])


def test_nucleus_that_reaches_the_bound_exactly_takes_no_more():
    # Equal logits are exactly 1/4 each in binary; two of them reach 1/2.
    np.testing.assert_array_equal(
        sampling.distribution(np.zeros(4), 1.0, top_p=0.5), [0.5, 0.5, 0, 0]
    )


def test_nucleus_counts_mass_among_what_top_k_left():
    # Of 4, 3, 2, 1 over 10, two are left: 4/7 and 3/7. 4/7 reaches 0.55 alone;
    # unrenormalised, 0.4 would not.
    logits = np.log([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(
        sampling.distribution(logits, 1.0, top_k=2, top_p=0.55), [0, 0, 0, 1]
    )


def test_nucleus_is_of_the_tempered_distribution():
    # 3/4 and 1/4; at temperature 1/2, 9/10 and 1/10: the first then reaches 0.8.
    logits = np.log([1.0, 3.0])
    assert np.count_nonzero(sampling.distribution(logits, 1.0, top_p=0.8)) == 2
    np.testing.assert_array_equal(sampling.distribution(logits, 0.5, top_p=0.8), [0, 1])


@pytest.mark.parametrize(("top_k", "top_p"), [(0, None), (None, 1.0), (0, 1.5), (99, None)])
def test_filters_that_are_off_change_nothing(top_k, top_p):
    logits = np.array([0.3, -1.0, 2.0])
    np.testing.assert_array_equal(
        sampling.distribution(logits, 0.7, top_k, top_p), sampling.distribution(logits, 0.7)
    )


def test_forbidden_tokens_leave_before_anything_is_counted():
    logits = np.log([8.0, 1.0, 3.0, 4.0])
    np.testing.assert_allclose(
        sampling.distribution(logits, 1.0, forbidden=[0]), [0, 0.125, 0.375, 0.5]
    )
    np.testing.assert_allclose(
        sampling.distribution(logits, 1.0, top_k=2, forbidden=[0]), [0, 0, 3 / 7, 4 / 7]
    )
    np.testing.assert_array_equal(sampling.distribution(logits, 0.0, forbidden=[0]), [0, 0, 0, 1])


def test_temperature_zero_is_a_point_mass_on_the_first_of_the_likeliest():
    logits = np.array([[[1.0, 5.0, 5.0]], [[2.0, 1.0, 0.0]]])
    np.testing.assert_array_equal(
        sampling.distribution(logits, 0.0, top_k=2, top_p=0.9), [[[0, 1, 0]], [[1, 0, 0]]]
    )


def test_huge_logits_and_tiny_temperatures_stay_finite():
    with np.errstate(all="raise", under="ignore"):
        found = sampling.distribution([1e4, -1e4, 1e4 - 1], 1e-308, top_k=2, top_p=0.5)
    np.testing.assert_array_equal(found, [1, 0, 0])


@pytest.mark.parametrize(
    ("logits", "options"),
    [
        ([0.0, 1.0], {"temperature": -1.0}),
        ([0.0, 1.0], {"temperature": math.nan}),
        ([0.0, 1.0], {"temperature": 1.0, "top_k": -1}),
        ([0.0, 1.0], {"temperature": 1.0, "top_p": 0.0}),
        ([0.0, 1.0], {"temperature": 1.0, "forbidden": [2]}),
        ([0.0, 1.0], {"temperature": 1.0, "forbidden": [0, 1]}),
        ([-math.inf, -math.inf], {"temperature": 1.0}),
        ([math.nan, 0.0], {"temperature": 1.0}),
        ([math.inf, 0.0], {"temperature": 1.0}),
    ],
)
def test_distribution_refuses_what_has_no_distribution(logits, options):
    with pytest.raises(ValueError, match=r"temperature|top_|forbidden|logits|token left"):
        sampling.distribution(logits, **options)


@PROPERTY
@given(
    logits_rows,
    st.floats(0, 5),
    st.none() | st.integers(0, 14),
    st.none() | st.floats(0.01, 1.2),
)
def test_distribution_is_a_distribution_that_follows_the_logits(row, temperature, top_k, top_p):
    found = sampling.distribution(row, temperature, top_k, top_p)
    assert found.dtype == np.float64
    assert np.all(found >= 0)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)  # Float64 rounding.
    assert found[np.argmax(row)] == found.max()
    if top_k:
        assert np.count_nonzero(found) <= top_k
    kept = found > 0
    # Renormalised, what is kept has the ratios of the plain distribution.
    if temperature > 0:
        plain = sampling.distribution(row, temperature)
        np.testing.assert_allclose(found[kept], plain[kept] / plain[kept].sum(), rtol=1e-9)


@PROPERTY
@given(logits_rows, st.floats(0.1, 5), st.data())
def test_support_shrinks_with_k_and_p(row, temperature, data):
    small_k, large_k = sorted(data.draw(st.tuples(st.integers(1, 14), st.integers(1, 14))))
    small_p, large_p = sorted(data.draw(st.tuples(st.floats(0.01, 1.1), st.floats(0.01, 1.1))))

    def support(k, p):
        return sampling.distribution(row, temperature, k, p) > 0

    assert np.all(support(small_k, None) <= support(large_k, None))
    assert np.all(support(None, small_p) <= support(None, large_p))
    assert np.count_nonzero(support(small_k, None)) == min(small_k, len(row))


@PROPERTY
@given(logits_rows, st.floats(0.2, 3), st.floats(0.05, 0.95))
def test_nucleus_is_the_smallest_set_that_reaches_its_mass(row, temperature, top_p):
    plain = sampling.distribution(row, temperature)
    kept = plain[sampling.distribution(row, temperature, top_p=top_p) > 0]
    # 1e-9 leaves room for sums in another order.
    assert kept.sum() >= top_p - 1e-9
    assert kept.sum() - kept.min() < top_p + 1e-9


@PROPERTY
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=12, unique=True))
def test_low_temperature_approaches_the_greedy_distribution(row):
    # Logits a whole 1 apart: at 0.01 the others have e^-100 each at most.
    np.testing.assert_allclose(
        sampling.distribution(row, 0.01), sampling.distribution(row, 0.0), atol=1e-40
    )


@PROPERTY
@given(st.permutations(range(6)), st.floats(0.2, 2))
def test_relabelling_tokens_relabels_their_distribution(order, temperature):
    row = np.array([0.1, 1.3, -0.4, 2.2, 0.9, -1.7])
    whole = sampling.distribution(row, temperature, 4, 0.9)
    np.testing.assert_allclose(
        sampling.distribution(row[list(order)], temperature, 4, 0.9),
        whole[list(order)],
        rtol=1e-12,  # Float64 rounding.
    )


# Chi-square


def test_chi_square_by_hand():
    # Expected 20, 20, 40: 16/20 + 36/20 + 4/40 = 2.7.
    assert sampling.chi_square([24, 14, 42], [0.25, 0.25, 0.5]) == (pytest.approx(2.7), 2)


def test_chi_square_pools_rare_cells():
    # Expected of 100: 90, 4, 4, 2; the last three pool to 10. Seen 80 and 20:
    # 100/90 + 100/10.
    found = sampling.chi_square([80, 10, 4, 6], [0.9, 0.04, 0.04, 0.02])
    assert found == (pytest.approx(100 / 90 + 10), 1)


def test_chi_square_adds_a_rare_pool_to_the_rarest_cell():
    # Expected of 100: 80, 18, 2; 2 is too rare alone and joins 18.
    found = sampling.chi_square([70, 20, 10], [0.8, 0.18, 0.02])
    assert found == (pytest.approx(100 / 80 + 100 / 20), 1)


def test_chi_square_keeps_cells_that_expect_just_enough():
    # Expected 5 and 5: 1/5 + 1/5.
    assert sampling.chi_square([4, 6], [0.5, 0.5]) == (pytest.approx(0.4), 1)


def test_chi_square_of_a_single_cell_is_nothing():
    assert sampling.chi_square([7, 0], [1.0, 0.0]) == (0.0, 0)
    assert sampling.chi_square([2, 1], [0.5, 0.5]) == (0.0, 0)


def test_chi_square_is_infinite_where_the_impossible_was_drawn():
    assert sampling.chi_square([50, 50, 1], [0.5, 0.5, 0.0]) == (math.inf, 1)
    assert sampling.chi_square([9, 1], [1.0, 0.0]) == (math.inf, 0)


@pytest.mark.parametrize(
    ("counts", "probabilities"),
    [
        ([1, 2], [1.0]),
        ([[1, 2]], [[0.5, 0.5]]),
        ([0, 0], [0.5, 0.5]),
        ([3, -1], [0.5, 0.5]),
        ([1, 1], [1.5, -0.5]),
        ([1, 1], [0.5, 0.4]),
    ],
)
def test_chi_square_refuses_what_is_no_sample_of_a_distribution(counts, probabilities):
    with pytest.raises(ValueError, match=r"counts|drawn|sum"):
        sampling.chi_square(counts, probabilities)


@PROPERTY
@given(st.lists(st.integers(0, 500), min_size=2, max_size=20).filter(any))
def test_chi_square_of_exactly_expected_counts_is_nothing(counts):
    statistic, degrees = sampling.chi_square(counts, np.array(counts) / sum(counts))
    assert statistic == pytest.approx(0.0, abs=1e-9)  # Float64 rounding of count / total * total.
    assert 0 <= degrees < len(counts)


@PROPERTY
@given(st.lists(st.integers(5, 500), min_size=2, max_size=12), st.integers(0, 10_000))
def test_chi_square_without_rare_cells_is_that_of_scipy(weights, seed):
    probabilities = np.array(weights) / sum(weights)
    total = 5 * sum(weights)
    counts = np.random.default_rng(seed).multinomial(total, np.ones(len(weights)) / len(weights))
    statistic, degrees = sampling.chi_square(counts, probabilities)
    theirs = scipy.stats.chisquare(counts, probabilities * total)
    assert statistic == pytest.approx(theirs.statistic, rel=1e-9)
    assert degrees == len(weights) - 1


def test_bound_tells_a_right_sampler_from_one_at_another_temperature():
    logits = np.linspace(-1, 1, 9)
    right = sampling.distribution(logits, 0.9)
    bound = scipy.stats.chi2.isf(1e-6, 8)
    rng = np.random.default_rng(0)
    assert sampling.chi_square(rng.multinomial(20_000, right), right)[0] < bound
    wrong = sampling.distribution(logits, 1.0)
    assert sampling.chi_square(rng.multinomial(20_000, wrong), right)[0] > bound


# Rollout


def test_completion_keeps_its_end_token_and_nothing_after():
    np.testing.assert_array_equal(rollout.cut_after_end([5, 6, 1, 7, 1], [1]), [5, 6, 1])
    np.testing.assert_array_equal(rollout.cut_after_end([5, 9, 1, 7], [1, 9]), [5, 9])
    np.testing.assert_array_equal(rollout.cut_after_end([1, 5], [1]), [1])
    np.testing.assert_array_equal(rollout.cut_after_end([5, 6], [1]), [5, 6])
    assert rollout.cut_after_end([], [1]).shape == (0,)


@PROPERTY
@given(st.lists(st.integers(0, 6)), st.sets(st.integers(0, 6)))
def test_cutting_is_idempotent_and_leaves_one_end_at_most(ids, ends):
    cut = rollout.cut_after_end(ids, ends)
    np.testing.assert_array_equal(rollout.cut_after_end(cut, ends), cut)
    assert ids[: len(cut)] == cut.tolist()
    assert not ends & set(cut[:-1].tolist())
    assert len(cut) == len(ids) or cut[-1] in ends


def test_padding_fills_the_side_it_names():
    rows = [[3, 4], [], [5, 6, 7]]
    np.testing.assert_array_equal(rollout.pad_right(rows, 3, 9), [[3, 4, 9], [9, 9, 9], [5, 6, 7]])
    np.testing.assert_array_equal(rollout.pad_left(rows, 3, 9), [[9, 3, 4], [9, 9, 9], [5, 6, 7]])


@pytest.mark.parametrize("pad", [rollout.pad_left, rollout.pad_right])
def test_padding_refuses_to_cut(pad):
    with pytest.raises(ValueError, match="3 ids does not fit 2"):
        pad([[1, 2, 3]], 2, 0)


def test_completion_mask_covers_the_length():
    found = rollout.completion_mask([0, 2, 3], 3)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, [[0, 0, 0], [1, 1, 0], [1, 1, 1]])


@pytest.mark.parametrize("length", [-1, 4])
def test_completion_mask_refuses_lengths_out_of_range(length):
    with pytest.raises(ValueError, match="between 0 and 3"):
        rollout.completion_mask([1, length], 3)


def test_reward_lies_on_the_last_real_token_whole():
    mask = [[1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 0, 0]]
    found = rollout.place_reward([0.1, -0.25, 1e-3, 2], mask)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [[0, 0.1, 0], [0, 0, -0.25], [0, 0, 1e-3], [2, 0, 0]])


def test_reward_of_an_empty_completion_is_refused():
    with pytest.raises(ValueError, match=r"rows \[1\] have no real token"):
        rollout.place_reward([1.0, 1.0], [[1, 0], [0, 0]])


def test_reward_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\[B\]"):
        rollout.place_reward([1.0], [[1, 0], [1, 0]])


# Differences log pi - log ref of 1/2 and -1 at the two real tokens:
# kl 1/2, -1; mse_kl 1/8, 1/2; low_var_kl e^-1/2 + 1/2 - 1, e - 1 - 1.
@pytest.mark.parametrize(
    ("estimator", "divergence"),
    [
        ("kl", [0.5, -1.0]),
        ("mse_kl", [0.125, 0.5]),
        ("low_var_kl", [math.exp(-0.5) - 0.5, math.e - 2]),
    ],
)
def test_token_rewards_charge_the_divergence_at_real_tokens(estimator, divergence):
    found = rollout.token_rewards(
        [3.0], [[1, 1, 0]], [[-1.0, -2.0, math.nan]], [[-1.5, -1.0, -1e6]], 0.2, estimator
    )
    expected = [[-0.2 * divergence[0], 3.0 - 0.2 * divergence[1], 0.0]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)  # Float64 rounding.


def test_token_rewards_without_beta_need_no_reference():
    found = rollout.token_rewards([3.0], [[1, 1, 0]], [[-1.0, -2.0, 0.0]], None, 0.0, "kl")
    np.testing.assert_array_equal(found, [[0, 3, 0]])
    with pytest.raises(ValueError, match="reference_log_probs"):
        rollout.token_rewards([3.0], [[1, 1, 0]], [[-1.0, -2.0, 0.0]], None, 0.1, "kl")


def test_token_rewards_refuse_log_probs_that_would_broadcast():
    with pytest.raises(ValueError, match="shape"):
        rollout.token_rewards([1.0, 2.0], np.ones((2, 2)), np.zeros((1, 2)), np.zeros(2), 0.1, "kl")


@PROPERTY
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.floats(-3, 3),
    st.integers(0, 10_000),
)
def test_rewards_and_charges_add_up_to_the_score(lengths, beta, seed):
    rng = np.random.default_rng(seed)
    mask = rollout.completion_mask(lengths, 5)
    scores = rng.normal(size=len(lengths))
    policy, reference = rng.normal(size=(2, *mask.shape))
    rewards = rollout.token_rewards(scores, mask, policy, reference, beta, "kl")
    charged = beta * np.sum((policy - reference) * mask, axis=1)
    np.testing.assert_allclose(rewards.sum(axis=1) + charged, scores, atol=1e-12)
    assert not rewards[~mask].any()


def test_positions_count_real_tokens_only():
    mask = [[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]]
    np.testing.assert_array_equal(
        rollout.positions(mask), [[0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 2], [0, 0, 0, 0]]
    )


def test_causal_mask_sees_real_tokens_up_to_itself():
    found = rollout.causal_mask([[0, 1, 1], [1, 1, 0]])
    assert found.dtype == bool
    np.testing.assert_array_equal(found[0], [[0, 0, 0], [0, 1, 0], [0, 1, 1]])
    np.testing.assert_array_equal(found[1], [[1, 0, 0], [1, 1, 0], [1, 1, 0]])


@PROPERTY
@given(st.integers(0, 5), st.integers(1, 5))
def test_left_padding_moves_neither_positions_nor_sight(pads, real):
    plain = [[1] * real]
    padded = [[0] * pads + [1] * real]
    np.testing.assert_array_equal(rollout.positions(padded)[:, pads:], rollout.positions(plain))
    np.testing.assert_array_equal(
        rollout.causal_mask(padded)[:, pads:, pads:], rollout.causal_mask(plain)
    )
    assert not rollout.causal_mask(padded)[:, :, :pads].any()


# Schedule


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
