"""What is compiled, and when."""

from collections.abc import Collection, Iterator

import numpy as np

from harness.checks import wrong
from harness.checks.lab import Lab
from harness.checks.property import EXACT, Comparison, Observed, Property


def _observe(lab: Lab) -> Observed:
    # Counted before each batch but the first, and after the last.
    return {"compiled": np.array(lab.trace.compiled)}


def _compare(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    compiled = observed["compiled"]
    yield Comparison("the first batch compiles", bool(compiled[0] > 0), True)
    yield Comparison(
        "programs compiled by each later batch", np.diff(compiled), np.zeros(len(compiled) - 1, int)
    )


PROPERTIES = (
    Property(
        id="steady-state",
        area="compilation",
        statement="After its first batch, training compiles nothing, validation included.",
        tolerance=EXACT,
        observe=_observe,
        compare=_compare,
        wrong={
            "one program a batch": wrong.value("compiled", lambda x: x + np.arange(len(x))),
            "not counted": wrong.value("compiled", np.zeros_like),
        },
    ),
)
