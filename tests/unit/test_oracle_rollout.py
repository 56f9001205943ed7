"""The oracle's completions, masks, positions and token rewards."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.oracle import rollout
from tests.support.oracle import PROPERTY


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
