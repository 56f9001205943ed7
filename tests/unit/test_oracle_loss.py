"""The oracle's losses, and what it reads and imports."""

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from harness.oracle import advantage, loss
from tests.support.oracle_arrays import (
    INF,
    LN2,
    LN3,
    LN4,
    NUMERIC,
    assert_close,
    batches,
    generated,
    masks,
    numeric_gradient,
    temperatures,
    tokens,
)

ROOT = pathlib.Path(__file__).parents[2]

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
