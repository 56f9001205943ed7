"""The oracle's log-probs, entropy and KL estimators."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from harness.oracle import kl, logprob
from tests.support.oracle_arrays import (
    INF,
    LN2,
    LN3,
    LN4,
    NUMERIC,
    arrays,
    assert_close,
    generated,
    numeric_gradient,
    temperatures,
    tokens,
)


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
