"""What is compiled, and when."""

from collections.abc import Collection, Iterator

import numpy as np

from harness import upstream
from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.property import EXACT, Comparison, Observed, Property


def _observe(context: Context) -> Observed:
    # Counted before each batch but the first, and after the last.
    trace = context.trace
    new = _new_lengths(trace)
    excused = new if upstream.standing("lengths-compile") else np.zeros_like(new)
    return {"compiled": np.array(trace.compiled), "excused": excused}


def _new_lengths(trace: upstream.Trace) -> np.ndarray:
    """Counts, of each batch, lengths of completions that were met in none before."""
    seen: set[int] = set()
    counts: list[int] = []
    generations = iter(trace.generations)
    for event in trace.events:
        if event == "batch":
            counts.append(0)
        elif event == "generate":
            new = {len(row) for row in next(generations).tokens} - seen
            counts[-1] += len(new)
            seen |= new
    return np.array(counts)


def _compare(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    compiled = observed["compiled"]
    yield Comparison("the first batch compiles", bool(compiled[0] > 0), True)
    # Which of the programs for new lengths are compiled depends on what the
    # process has sliced before.
    more = np.maximum(np.diff(compiled) - observed["excused"][1:], 0)
    yield Comparison("programs compiled by each later batch", more, np.zeros_like(more))


PROPERTIES = (
    Property(
        id="steady-state",
        area="compilation",
        statement="After its first batch, training compiles nothing, validation included.",
        tolerance=EXACT,
        observe=_observe,
        compare=_compare,
        wrong={
            "nine programs a batch": wrong.value("compiled", lambda x: x + 9 * np.arange(len(x))),
            "not counted": wrong.value("compiled", np.zeros_like),
        },
    ),
)
