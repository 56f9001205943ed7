"""What tests of oracle_arrays share."""

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose

CLOSE = 1e-12

NUMERIC = 1e-8

INF = math.inf

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)

generated = settings(max_examples=50, deadline=None, derandomize=True)

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
