"""The formulas against numbers worked by hand, their own definitions, and limits.

Tolerances: sums of a few dozen terms below 100 lose at most 1e-12 in float64
(`CLOSE`). A central difference of step 1e-5 is off by about 1e-10 from the third
derivative and 1e-11 from rounding; `NUMERIC` leaves a factor of 100, and a wrong
term is off by whole parts.
"""

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from harness.oracle import advantage, kl, logprob, loss

ROOT = pathlib.Path(__file__).parents[1]
CLOSE = 1e-12
NUMERIC = 1e-8
INF = math.inf
LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)
generated = settings(max_examples=50, deadline=None, derandomize=True)
discounts = st.sampled_from([0.0, 0.3, 0.95, 1.0])
temperatures = st.sampled_from([0.25, 0.7, 1.0, 3.0])


def assert_close(found, expected, tolerance=CLOSE):
    """Assert equality within a tolerance, absolute for small numbers, relative for large."""
    assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def arrays(shape, low=-10.0, high=10.0):
    return hnp.arrays(np.float64, shape, elements=st.floats(low, high))


def masks(shape):
    return hnp.arrays(np.bool_, shape)


@st.composite
def batches(draw, count=2, low=-10.0, high=10.0):
    """Some arrays of one shape `[B, T]`, then a mask that may have holes."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 6)))
    return *(draw(arrays(shape, low, high)) for _ in range(count)), draw(masks(shape))


@st.composite
def tokens(draw):
    """Logits `[B, T, V]`, some of them minus infinity, then ids `[B, T]`."""
    b, t, v = draw(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 5)))
    logits = draw(arrays((b, t, v), -8, 8))
    barred = draw(masks((b, t, v)))
    barred[..., draw(st.integers(0, v - 1))] = False
    ids = draw(hnp.arrays(np.int64, (b, t), elements=st.integers(0, v - 1)))
    return np.where(barred, -INF, logits), ids


def numeric_gradient(function, x, step=1e-5):
    """Central differences of a function of an array to a number."""
    gradient = np.zeros(x.shape)
    for position in np.ndindex(x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[position] += sign * step
            ends.append(function(moved))
        gradient[position] = (ends[0] - ends[1]) / (2 * step)
    return gradient


# Log-probabilities. Odds of 1 to 3 are probabilities 1/4 and 3/4.


@pytest.mark.parametrize(("scale", "temperature"), [(1, 1.0), (2, 2.0), (0.5, 0.5)])
def test_odds_of_one_to_three_give_a_quarter_and_three_quarters(scale, temperature):
    logits = np.array([[[0.0, scale * LN3], [0.0, scale * LN3]]])
    found = logprob.token_log_probs(logits, [[0, 1]], temperature)
    assert_close(found, [[-LN4, LN3 - LN4]])
    # H = 1/4 ln 4 + 3/4 (ln 4 - ln 3).
    assert_close(logprob.entropy(logits, temperature), LN4 - 0.75 * LN3)
    # (onehot - p) / T.
    assert_close(
        logprob.token_log_probs_gradient(logits, [[0, 1]], temperature) * temperature,
        [[[0.75, -0.75], [-0.25, 0.25]]],
    )


def test_a_barred_token_changes_nothing_for_the_others():
    logits = np.array([0.0, -INF, LN3])
    assert_close(logprob.log_softmax(logits), [-LN4, -INF, LN3 - LN4])
    assert_close(logprob.entropy(logits), LN4 - 0.75 * LN3)
    assert logprob.token_log_probs(logits, 1) == -INF
    assert logprob.token_log_probs_gradient(logits, 2)[1] == 0
    assert logprob.entropy_gradient(logits)[1] == 0


def test_huge_logits_do_not_overflow():
    with np.errstate(all="raise"):
        found = logprob.log_softmax([1e5, 1e5, 1e5 + LN2])
    # exp of the differences is 1, 1, 2; near 1e5 a float64 has 1.5e-11 between neighbours.
    assert_close(found, [-LN4, -LN4, LN2 - LN4], 1e-10)


@generated
@given(tokens(), st.floats(-100, 100))
def test_log_softmax_sums_to_one_and_ignores_a_shift(case, shift):
    logits, _ = case
    found = logprob.log_softmax(logits)
    assert_close(np.exp(found).sum(-1), 1)
    assert_close(logprob.log_softmax(logits + shift), found)


@generated
@given(tokens(), temperatures)
def test_entropy_lies_between_zero_and_the_log_of_the_tokens_left(case, temperature):
    logits, _ = case
    found = logprob.entropy(logits, temperature)
    assert (found >= -1e-12).all()
    assert (found <= np.log(np.isfinite(logits).sum(-1)) + 1e-12).all()
    level = np.where(np.isfinite(logits), 5.0, -INF)
    assert_close(logprob.entropy(level, temperature), np.log(np.isfinite(logits).sum(-1)))


@generated
@given(tokens(), temperatures)
def test_gradient_of_token_log_probs_matches_differences(case, temperature):
    logits, ids = case
    logits = np.where(np.isneginf(logits), 0.5, logits)  # A barred token has no log-prob to move.
    weights = np.arange(1.0, ids.size + 1).reshape(ids.shape)
    assert_close(
        weights[..., None] * logprob.token_log_probs_gradient(logits, ids, temperature),
        numeric_gradient(
            lambda z: (weights * logprob.token_log_probs(z, ids, temperature)).sum(), logits
        ),
        10 * NUMERIC,  # At temperature 1/4 a third derivative is up to 64 times larger.
    )


@generated
@given(tokens(), temperatures)
def test_gradient_of_entropy_matches_differences(case, temperature):
    logits, _ = case
    assert_close(
        logprob.entropy_gradient(logits, temperature),
        numeric_gradient(lambda z: logprob.entropy(z, temperature).sum(), logits),
        10 * NUMERIC,  # As above.
    )


@pytest.mark.parametrize("ids", [[[3]], [[-1]], [[0, 0]], [0]])
def test_ids_that_do_not_fit_are_refused(ids):
    with pytest.raises(ValueError, match="ids"):
        logprob.token_log_probs(np.zeros((1, 1, 3)), ids)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        logprob.entropy(np.zeros(3), temperature)


# KL.


@pytest.mark.parametrize(
    ("estimator", "expected"),
    # Policy 1/2, reference 1/4: r = 1/2, log r = -ln 2.
    [("kl", LN2), ("mse_kl", LN2**2 / 2), ("low_var_kl", -0.5 + LN2)],
)
def test_kl_of_a_half_and_a_quarter(estimator, expected):
    found = kl.kl([[-LN2, -1.0]], [[-LN4, -1.0]], estimator)
    assert_close(found, [[expected, 0]])


@generated
@given(arrays((2, 5), -4, 4))
def test_two_estimators_have_the_divergence_as_their_expectation(logits):
    policy, reference = logprob.log_softmax(logits)
    exact = (np.exp(policy) * (policy - reference)).sum()
    for estimator in ("kl", "low_var_kl"):
        expectation = (np.exp(policy) * kl.kl(policy, reference, estimator)).sum()
        assert_close(expectation, exact)


@generated
@given(arrays((2, 3, 4), -20, 0))
def test_low_var_kl_is_never_negative_and_two_estimators_are_even_or_odd(log_probs):
    one, other = log_probs
    # exp(x) - 1 - x loses at most an ulp of its parts, here below 1e9.
    parts = np.exp(other - one) + np.abs(other - one)
    assert (kl.kl(one, other, "low_var_kl") >= -1e-15 * parts).all()
    assert_array_equal(kl.kl(one, other, "kl"), -kl.kl(other, one, "kl"))
    assert_array_equal(kl.kl(one, other, "mse_kl"), kl.kl(other, one, "mse_kl"))


def test_low_var_kl_keeps_its_digits_for_near_equal_policies():
    # For a difference d, k3 = d^2 / 2 + d^3 / 6 + ...; d has 2e-25 between neighbours.
    assert kl.kl([0.0], [1e-9], "low_var_kl")[0] == pytest.approx(5e-19, rel=1e-6, abs=0)


def test_an_unknown_estimator_and_unlike_shapes_are_refused():
    with pytest.raises(ValueError, match="k9"):
        kl.kl([0.0], [0.0], "k9")
    with pytest.raises(ValueError, match="shapes"):
        kl.kl([[0.0]], [0.0], "kl")


# Masked statistics and whitening.


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


# Generalized advantage estimation.


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


# The policy's loss. Ratios are kept in [3/4, 3/2]; the second clip is at 3.
#
# | ratio | A  | r A  | clipped | objective           | -r A, where it moves |
# | 1/2   | 1  | 1/2  | 3/4     | 1/2                 | -1/2                 |
# | 1/2   | -1 | -1/2 | -3/4    | -3/4, clipped       | 0                    |
# | 2     | 1  | 2    | 3/2     | 3/2, clipped        | 0                    |
# | 2     | -1 | -2   | -3/2    | -2                  | 2                    |
# | 1     | 1  | 1    | 1       | 1                   | -1                   |
# | 1     | -1 | -1   | -1      | -1                  | 1                    |
# | 4     | -1 | -4   | -3/2    | -4, or -3 with c    | 4, or 0 with c       |
# | 4     | 0  | 0    | 0       | 0                   | 0                    |
RATIOS = np.array([[0.5, 0.5, 2, 2], [1, 1, 4, 4]])
ADVANTAGES = np.array([[1.0, -1, 1, -1], [1, -1, -1, 0]])


@pytest.mark.parametrize(
    ("epsilon_c", "last", "lower", "moving"), [(None, 4.0, 0.0, 4.0), (3.0, 3.0, 0.125, 0.0)]
)
def test_policy_loss_over_a_grid_of_ratios(epsilon_c, last, lower, moving):
    old = np.full(RATIOS.shape, -2.0)
    arguments = (np.log(RATIOS) + old, old, ADVANTAGES, np.ones((2, 4)), 0.25, 0.5, epsilon_c)
    found = loss.policy_loss(*arguments)
    assert_close(found.per_token, [[-0.5, 0.75, -1.5, 2], [-1, 1, last, 0]])
    # The first seven but the last but one sum to 3/4.
    assert_close(found.loss, (0.75 + last) / 8)
    assert_close(found.ratio, RATIOS)
    assert (found.clip_fraction, found.lower_clip_fraction) == (0.25, lower)
    assert_close(loss.policy_loss_gradient(*arguments) * 8, [[-0.5, 0, 0, 2], [-1, 1, moving, 0]])


def test_losses_are_means_over_tokens_not_over_rows():
    mask = np.array([[1, 1, 1], [1, 0, 0]])
    x = np.array([[1.0, 1, 1], [5, 0, 0]])
    zeros = np.zeros(x.shape)
    # Tokens: (3 + 5) / 4 = 2; rows: (1 + 5) / 2 = 3. Squares: (3 + 25) / 4 = 7, half of it 3.5.
    assert loss.policy_loss(zeros, zeros, x, mask, 0.2, 0.2).loss == -2
    assert loss.value_loss(x, x, zeros, mask, 0.2).loss == 3.5


@generated
@given(batches(2), st.sampled_from([None, 1.5, 3.0]))
def test_a_ratio_of_one_gives_minus_the_mean_advantage_and_clips_nothing(case, epsilon_c):
    log_probs, advantages, mask = case
    found = loss.policy_loss(log_probs, log_probs, advantages, mask, 0.0, 0.2, epsilon_c)
    expected = -advantages[mask].mean() if mask.any() else 0
    assert_close(found.loss, expected)
    assert (found.ratio == 1).all()
    assert (found.clip_fraction, found.lower_clip_fraction) == (0, 0)


@generated
@given(batches(3, -2, 2), st.sampled_from([1.01, 1.5, 3.0]))
def test_the_second_clip_bounds_the_loss_of_negative_advantages_and_no_other(case, epsilon_c):
    new, old, advantages, mask = case
    single = loss.policy_loss(new, old, advantages, mask, 0.2, 0.3)
    dual = loss.policy_loss(new, old, advantages, mask, 0.2, 0.3, epsilon_c)
    bound = np.where(advantages < 0, -epsilon_c * advantages, INF)
    assert_array_equal(dual.per_token, np.minimum(single.per_token, bound))
    assert dual.clip_fraction == single.clip_fraction
    acts = (single.per_token > bound)[mask]
    assert_close(dual.lower_clip_fraction, acts.mean() if mask.any() else 0)


@generated
@given(batches(2, -2, 2))
def test_the_clip_only_ever_makes_the_objective_worse(case):
    difference, advantages, mask = case
    found = loss.policy_loss(difference, 0 * difference, advantages, mask, 0.2, 0.3)
    plain = np.where(mask, -np.exp(difference) * advantages, 0)
    assert (found.per_token >= plain).all()
    worse = (found.per_token > plain)[mask]
    assert_close(found.clip_fraction, worse.mean() if mask.any() else 0)


@generated
@given(batches(3, -1.5, 1.5), st.sampled_from([None, 1.7, 3.0]))
def test_gradient_of_the_policy_loss_matches_differences(case, epsilon_c):
    new, old, advantages, mask = case
    for bound in (0.8, 1.3, epsilon_c or 0):
        assume((np.abs(np.exp(new - old) - bound) > 1e-3).all())  # No derivative at a kink.
    rest = (old, advantages, mask, 0.2, 0.3, epsilon_c)
    found = loss.policy_loss_gradient(new, *rest)
    expected = numeric_gradient(lambda x: loss.policy_loss(x, *rest).loss, new)
    assert_close(found, expected, NUMERIC)
    assert (found[~mask] == 0).all()


def test_at_a_bound_the_unclipped_side_gives_the_derivative():
    # Epsilon 0 puts a ratio of exactly 1 on both bounds.
    zeros, ones = np.zeros((1, 2)), np.ones((1, 2))
    found = loss.policy_loss_gradient(zeros, zeros, [[1.0, -1.0]], ones, 0.0, 0.0)
    assert_array_equal(found, [[-0.5, 0.5]])


@pytest.mark.parametrize(
    ("bounds", "name"),
    [
        ((-0.1, 0.2), "epsilons"),
        ((0.2, -0.1), "epsilons"),
        ((0.2, 0.2, 1.0), "epsilon_c"),
        ((0.2, 0.2, math.nan), "epsilon_c"),
    ],
)
def test_bounds_outside_their_range_are_refused(bounds, name):
    zeros = np.zeros((1, 1))
    with pytest.raises(ValueError, match=name):
        loss.policy_loss(zeros, zeros, zeros, zeros, *bounds)


# The value loss. Old values are 0, the range is 1/2.
#
# | V   | R | error | clipped V | its error | larger square | derivative |
# | 1   | 0 | 1     | 1/2       | 1/2       | 1             | 1          |
# | 1   | 1 | 0     | 1/2       | -1/2      | 1/4, clipped  | 0          |
# | 1/4 | 1 | -3/4  | 1/4       | -3/4      | 9/16          | -3/4       |
# | -2  | 1 | -3    | -1/2      | -3/2      | 9             | -3         |


def test_value_loss_over_four_values():
    arguments = ([[1.0, 1.0], [0.25, -2.0]], np.zeros((2, 2)), [[0, 1], [1, 1]], np.ones((2, 2)))
    found = loss.value_loss(*arguments, 0.5)
    assert_array_equal(found.per_token, [[0.5, 0.125], [0.28125, 4.5]])
    # 10.8125 / 2 / 4, and 0.25 / 4.
    assert (found.loss, found.clip_fraction, found.mean_value) == (1.3515625, 0.25, 0.0625)
    assert_array_equal(loss.value_loss_gradient(*arguments, 0.5) * 4, [[1, 0], [-0.75, -3]])


@generated
@given(batches(3, -2, 2))
def test_a_wide_range_leaves_the_mean_squared_error(case):
    values, old, returns, mask = case
    found = loss.value_loss(values, old, returns, mask, 100.0)
    squares = ((values - returns) ** 2)[mask]
    assert_close(found.loss, squares.mean() / 2 if mask.any() else 0)
    assert found.clip_fraction == 0
    narrow = loss.value_loss(values, old, returns, mask, 0.1)
    assert (narrow.per_token >= found.per_token).all()


@generated
@given(batches(3, -2, 2))
def test_gradient_of_the_value_loss_matches_differences(case):
    values, old, returns, mask = case
    clipped = np.clip(values, old - 0.3, old + 0.3)
    # No derivative at the edge of the range, nor where the two errors are equal beyond it.
    assume((np.abs(np.abs(values - old) - 0.3) > 1e-3).all())
    equal = np.abs((clipped - returns) ** 2 - (values - returns) ** 2) < 1e-3
    assume(not (equal & (clipped != values)).any())
    found = loss.value_loss_gradient(values, old, returns, mask, 0.3)
    expected = numeric_gradient(lambda x: loss.value_loss(x, old, returns, mask, 0.3).loss, values)
    assert_close(found, expected, NUMERIC)
    assert (found[~mask] == 0).all()


def test_where_both_errors_are_equal_the_unclipped_one_gives_the_derivative():
    # V = 1 is kept at 1/2; the return 3/4 lies midway between the two.
    found = loss.value_loss_gradient([[1.0]], [[0.0]], [[0.75]], [[1]], 0.5)
    assert_array_equal(found, [[0.25]])


def test_a_negative_range_is_refused():
    zeros = np.zeros((1, 1))
    with pytest.raises(ValueError, match="clip_range"):
        loss.value_loss(zeros, zeros, zeros, zeros, -0.1)


# The entropy bonus.


def test_the_entropy_bonus_is_the_mean_over_real_tokens():
    # Entropies ln 2 and ln 4 - 3/4 ln 3; the third token is masked.
    logits = [[[0.0, 0.0], [0.0, LN3], [7.0, 1.0]]]
    expected = (LN2 + LN4 - 0.75 * LN3) / 2
    assert_close(loss.entropy_bonus(logits, [[1, 1, 0]]), expected)
    doubled = 2 * np.array(logits)
    assert_close(loss.entropy_bonus(doubled, [[1, 1, 0]], 2.0), expected)


@generated
@given(tokens(), st.data(), temperatures)
def test_gradient_of_the_entropy_bonus_matches_differences(case, data, temperature):
    logits, ids = case
    mask = data.draw(masks(ids.shape))
    found = loss.entropy_bonus_gradient(logits, mask, temperature)
    expected = numeric_gradient(lambda z: loss.entropy_bonus(z, mask, temperature), logits)
    assert_close(found, expected, 10 * NUMERIC)  # As for the entropy.
    assert (found[~mask] == 0).all()


def test_logits_that_do_not_fit_the_mask_are_refused():
    with pytest.raises(ValueError, match="logits"):
        loss.entropy_bonus(np.zeros((1, 2, 3)), np.ones((1, 1)))


# What stands at masked positions.


def outputs(a, b, c, logits, mask):
    """Everything that takes a mask, by name."""
    policy = loss.policy_loss(a, b, c, mask, 0.2, 0.3, 3.0)
    value = loss.value_loss(a, b, c, mask, 0.3)
    return {
        "mean": advantage.masked_mean(a, mask),
        "mean of rows": advantage.masked_mean(a, mask, axis=1),
        "variance": advantage.masked_variance(a, mask),
        "whiten": advantage.whiten(a, mask),
        "gae": advantage.gae(a, b, mask, 0.9, 0.8),
        "policy loss": (policy.loss, policy.clip_fraction, policy.lower_clip_fraction),
        "policy tokens": (policy.per_token, policy.ratio),
        "policy gradient": loss.policy_loss_gradient(a, b, c, mask, 0.2, 0.3, 3.0),
        "value loss": (value.loss, value.clip_fraction, value.mean_value),
        "value tokens": value.per_token,
        "value gradient": loss.value_loss_gradient(a, b, c, mask, 0.3),
        "entropy": loss.entropy_bonus(logits, mask, 0.7),
        "entropy gradient": loss.entropy_bonus_gradient(logits, mask, 0.7),
    }


@generated
@given(batches(3, -2, 2), st.sampled_from([math.nan, INF, -INF, 1e30, -1e6]))
def test_nothing_at_a_masked_position_is_ever_read(case, poison):
    a, b, c, mask = case
    logits = np.stack([a, 2 * b, c], axis=-1)
    pa, pb, pc = (np.where(mask, each, poison) for each in (a, b, c))
    poisoned = np.where(mask[..., None], logits, poison)
    # Raising shows arithmetic on the poison that a later mask would hide.
    with np.errstate(invalid="raise", over="raise", divide="raise"):
        found = outputs(pa, pb, pc, poisoned, mask)
    for name, expected in outputs(a, b, c, logits, mask).items():
        assert_array_equal(found[name], expected, err_msg=name)
        assert np.isfinite(expected).all(), name


def test_without_a_real_token_everything_is_zero_and_the_ratio_one():
    x, logits = np.full((2, 3), 5.0), np.full((2, 3, 4), 5.0)
    for name, found in outputs(x, x, x, logits, np.zeros((2, 3))).items():
        if name == "policy tokens":
            found = (found[0], found[1] - 1)
        assert not np.any(found), name


# What the oracle imports.

_LOADED = """
import importlib, json, pkgutil, sys
import harness.oracle as oracle
names = [each.name for each in pkgutil.walk_packages(oracle.__path__, "harness.oracle.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_loading_the_whole_oracle_loads_nothing_that_it_judges():
    # Unwanted modules that an installation loads into every interpreter would not be ours.
    bare = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    before, after = (
        json.loads(
            subprocess.run(
                [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True
            ).stdout
        )
        for program in (bare, _LOADED)
    )
    names, loaded = after
    assert {f"harness.oracle.{each}" for each in ("advantage", "kl", "logprob", "loss")} <= {*names}
    assert "numpy" in loaded
    assert ({"jax", "tunix", "flax", "scipy"} & set(loaded)) - set(before) == set()
