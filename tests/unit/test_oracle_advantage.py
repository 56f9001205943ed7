"""The oracle's masked statistics, whitening and GAE."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from harness.oracle import advantage
from tests.support.oracle_arrays import INF, assert_close, batches, generated

discounts = st.sampled_from([0.0, 0.3, 0.95, 1.0])


def test_masked_statistics_of_one_two_and_four():
    x, mask = [[1.0, 2.0], [9.0, 4.0]], [[1, 1], [0, 1]]
    # Mean 7/3; deviations -4/3, -1/3, 5/3; squares sum to 42/9; over n - 1 = 2: 7/3.
    assert_close(advantage.masked_mean(x, mask), 7 / 3)
    assert_close(advantage.masked_variance(x, mask), 7 / 3)
    assert_array_equal(advantage.masked_mean(x, mask, axis=0), [1, 3])
    assert_array_equal(advantage.masked_mean(x, mask, axis=1), [1.5, 4])


def test_no_token_has_mean_zero_along_an_axis_too():
    assert advantage.masked_mean([[1.0, 2.0]], [[0, 0]]) == 0
    assert_array_equal(
        advantage.masked_mean([[1.0, 2.0], [3.0, 4.0]], [[0, 0], [0, 1]], axis=1), [0, 4]
    )


def test_whitening_divides_by_the_root_of_the_variance_and_epsilon():
    # Mean 2, variance 2 / 1; with epsilon 2 the divisor is 2.
    assert_array_equal(
        advantage.whiten([[1.0, 9.0, 3.0]], [[1, 0, 1]], epsilon=2.0), [[-0.5, 0, 0.5]]
    )


@generated
@given(batches(1), st.floats(-10, 10), st.floats(0.1, 10))
def test_whitened_tokens_have_mean_zero_variance_one_and_no_memory_of_scale(case, shift, scale):
    x, mask = case
    assume(advantage.masked_variance(x, mask) > 1e-2)
    white = advantage.whiten(x, mask, epsilon=0.0)
    rounding = 1e-10  # Of a mean below 20, against a spread above 0.1.
    assert_close(white[mask].mean(), 0, rounding)
    assert_close(white[mask].var(ddof=1), 1, rounding)
    assert (white[~mask] == 0).all()
    moved = advantage.whiten(shift + scale * x, mask, epsilon=0.0)
    assert_close(moved, white, rounding)


@pytest.mark.parametrize("mask", [[[0, 0, 0]], [[0, 1, 0]], [[1, 1, 1]]])
def test_tokens_without_spread_whiten_to_zeros(mask):
    assert advantage.masked_variance([[4.0, 4.0, 4.0]], mask) == 0
    assert_array_equal(advantage.whiten([[4.0, 4.0, 4.0]], mask), [[0, 0, 0]])


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="shape"):
        advantage.masked_mean([[1.0, 2.0]], [1, 1])


def by_definition(rewards, values, gamma, gae_lambda):
    """The sum of equation 16, for one row without masked tokens."""
    following = np.append(values, 0)[1:]
    delta = rewards + gamma * following - values
    return np.array(
        [
            sum((gamma * gae_lambda) ** k * each for k, each in enumerate(delta[t:]))
            for t in range(len(delta))
        ]
    )


def test_gae_of_three_tokens_with_a_hole_and_padding():
    nan = math.nan
    found = advantage.gae(
        [[0.0, nan, 0.0, 1.0, nan]], [[0.5, nan, 0.25, -1.0, nan]], [[1, 0, 1, 1, 0]], 0.5, 0.5
    )
    # delta: 1 - (-1) = 2; 0 - 1/2 - 1/4 = -3/4; 0 + 1/8 - 1/2 = -3/8.
    # A: 2; -3/4 + 2/4 = -1/4; -3/8 - 1/16 = -7/16. All of them are exact in binary.
    assert_array_equal(found[0], [[-0.4375, 0, -0.25, 2, 0]])
    assert_array_equal(found[1], [[0.0625, 0, 0, 1, 0]])


def test_integer_rewards_do_not_round_what_follows():
    found, _ = advantage.gae(np.array([[0, 1]]), np.array([[0, 0]]), np.array([[1, 1]]), 0.5, 0.5)
    assert_array_equal(found, [[0.25, 1]])


@generated
@given(batches(), discounts, discounts, st.sampled_from([math.nan, INF, 1e30]))
def test_holes_are_as_though_the_row_had_been_collapsed(case, gamma, gae_lambda, garbage):
    rewards, values, mask = case
    advantages, returns = advantage.gae(
        np.where(mask, rewards, garbage), np.where(mask, values, garbage), mask, gamma, gae_lambda
    )
    for row, real in enumerate(mask):
        expected = by_definition(rewards[row, real], values[row, real], gamma, gae_lambda)
        assert_close(advantages[row, real], expected)
    assert_close(returns[mask], (advantages + values)[mask])
    assert (advantages[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


@generated
@given(batches(), discounts)
def test_lambda_zero_gives_the_one_step_error_and_gamma_zero_the_reward_less_the_value(case, rate):
    rewards, values, mask = case
    one_step, _ = advantage.gae(rewards, values, mask, rate, 0.0)
    myopic, returns = advantage.gae(rewards, values, mask, 0.0, rate)
    for row, real in enumerate(mask):
        r, v = rewards[row, real], values[row, real]
        assert_close(one_step[row, real], r + rate * np.append(v, 0)[1:] - v)
        assert_close(myopic[row, real], r - v)
        assert_close(returns[row, real], r)


@generated
@given(batches())
def test_lambda_and_gamma_one_give_the_rewards_to_come_less_the_value(case):
    rewards, values, mask = case
    advantages, returns = advantage.gae(rewards, values, mask, 1.0, 1.0)
    to_come = np.where(mask, rewards, 0)[:, ::-1].cumsum(1)[:, ::-1]
    assert_close(returns[mask], to_come[mask])
    assert_close(advantages[mask], (to_come - values)[mask])


@generated
@given(batches(), discounts, discounts)
def test_values_that_foresee_every_reward_leave_no_advantage(case, gamma, gae_lambda):
    rewards, _, mask = case
    values = np.zeros_like(rewards)
    for row, real in enumerate(mask):
        values[row, real] = by_definition(rewards[row, real], np.zeros(real.sum()), gamma, 1.0)
    advantages, _ = advantage.gae(rewards, values, mask, gamma, gae_lambda)
    assert_close(advantages, 0)


def test_gae_refuses_arrays_that_are_not_batches():
    with pytest.raises(ValueError, match=r"\[B, T\]"):
        advantage.gae([1.0], [1.0], [1], 1.0, 1.0)
