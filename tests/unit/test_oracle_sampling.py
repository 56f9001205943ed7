"""The oracle's sampling distribution, and the test of draws against it."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from harness.oracle import sampling
from tests.support.oracle import PROPERTY

logits_rows = st.lists(st.floats(-8, 8), min_size=2, max_size=12)


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
