"""The search for the largest micro-batch that fits."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.plan import largest


@given(
    threshold=st.integers(0, 300),
    step=st.sampled_from([1, 2, 4]),
    start=st.integers(1, 20),
    bend=st.floats(0, 0.01),
    reported=st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_the_largest_size_is_where_the_judge_puts_it(threshold, step, start, bend, reported):
    asked = []

    def size(sequences):
        return int(1000 + 50 * sequences + bend * sequences**2)

    def judge(sequences):
        assert sequences not in asked
        assert sequences % step == 0
        asked.append(sequences)
        return largest.Verdict(sequences <= threshold, size(sequences) if reported else None)

    limit = 256 // step * step
    found = largest.find(
        judge, start=start * step, step=step, limit=limit, capacity=size(threshold), floor=1000
    )
    most = min(threshold // step * step, limit)
    assert found.fits == most
    assert found.refused == (None if most == limit else most + step)
    assert {each for each in (found.fits, found.refused) if each} <= set(asked)


def test_a_line_that_leads_astray_is_not_followed_size_by_size():
    asked = []

    def judge(sequences):
        asked.append(sequences)
        # What is refused takes hardly more than there is, far beyond the largest that fits too.
        return largest.Verdict(
            sequences <= 700, 40 * sequences if sequences <= 700 else 32_000 + sequences
        )

    assert largest.find(judge, start=4, step=1, limit=4096, capacity=31_000) == largest.Largest(
        700, 701
    )
    assert len(asked) <= 2 * math.log2(4096)


@pytest.mark.parametrize(("floor", "most"), [(0, 6), (1000, 5)])
def test_a_straight_line_takes_few_questions(floor, most):
    asked = []

    def judge(sequences):
        asked.append(sequences)
        return largest.Verdict(1000 + 50 * sequences <= 3777, 1000 + 50 * sequences)

    largest.find(judge, start=4, step=1, limit=4096, capacity=3777, floor=floor)
    assert len(asked) <= most


def test_sizes_between_two_known_ones_are_estimated_on_the_line():
    assert largest.estimate({2: 1200, 10: 2000}, 1500) == 5
    assert largest.estimate({2: 1200}, 1500) is None
    assert largest.estimate({2: 1200, 3: 1200}, 1500) is None


def test_less_memory_is_not_judged_by_sizes_that_the_compiler_squeezed_in():
    # The reference's critic step on a v6e, in MiB: 2, 7 and 9 sequences, of 4 the truth is 28385.
    seen = {2: 24033, 7: 31900, 9: 31950}
    assert largest.estimate_between(seen, 27430) == 4
    assert largest.estimate_between({2: 1200, 10: 2000}, 1500) == 5
    assert largest.estimate_between({2: 1200, 10: 2000}, 2800) == 18
    assert largest.estimate_between({2: 1200}, 1500) is None
