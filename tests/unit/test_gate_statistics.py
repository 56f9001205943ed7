"""Bounds of a mean, and several hypotheses at once."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.gate import (
    statistics,
)


def test_the_lower_bound_is_that_of_scipy():
    values = [0.01, 0.03, -0.02, 0.05, 0.02]
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.98)
    assert statistics.lower_bound(values, 0.01) == pytest.approx(interval.low, rel=1e-12)
    assert statistics.upper_bound(values, 0.01) == pytest.approx(interval.high, rel=1e-12)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=12), st.floats(-1, 1), st.floats(0.001, 0.4))
def test_the_bound_and_the_p_value_agree(values, at_most, alpha):
    p, bound = statistics.p_value(values, at_most), statistics.lower_bound(values, alpha)
    if not math.isclose(p, alpha, rel_tol=1e-6) and not math.isclose(bound, at_most, abs_tol=1e-9):
        assert (p < alpha) == (bound > at_most)


def test_equal_values_are_certain():
    assert statistics.p_value([0.02] * 4, 0.01) == 0
    assert statistics.p_value([0.01] * 4, 0.01) == 1


def test_holm_rejects_in_order_and_stops_at_the_first_that_stands():
    # 0.01 <= 0.05/4, 0.015 <= 0.05/3, 0.03 > 0.05/2: the third stands, and the fourth with it.
    p = {"a": 0.01, "b": 0.015, "c": 0.03, "d": 0.04}
    assert statistics.holm(p, 0.05) == {"a", "b"}
    assert statistics.holm(p, 0.05, family=10) == frozenset()


def test_what_is_detectable_is_detected_as_often_as_stated():
    # 2,000 runs: the standard error of a share of 0.95 is 0.005.
    draw = np.random.default_rng(0)
    effect = statistics.detectable(0.01, 5, margin=0.01, alpha=0.004)
    found = draw.normal(effect, 0.01, (2000, 5))
    share = np.mean([statistics.p_value(values, 0.01) < 0.004 for values in found])
    assert abs(share - 0.95) < 3 * 0.005
