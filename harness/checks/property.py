"""A property: what must hold, how it is seen, how far off it may be, and what would break it."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from harness.checks.context import Context

Observed = dict[str, Any]
Status = Literal["pass", "known-defect", "fail", "error"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two things that must agree.

    Attributes:
      what: What they are.
      got: What Tunix did.
      want: What is right: the oracle's figure, or its own under a symmetry.
    """

    what: str
    got: Any
    want: Any


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far `got` may be from `want`: absolute + relative * |want|.

    Attributes:
      relative: Share of what is wanted; 0 with `absolute` 0 asks for equal bits.
      absolute: In the unit of what is compared.
      why: Where it comes from.
    """

    relative: float
    absolute: float
    why: str

    def __str__(self) -> str:
        """Describe it in figures."""
        if not (self.relative or self.absolute):
            return "exact"
        parts = []
        if self.relative:
            parts.append(f"{self.relative:g} relative")
        if self.absolute:
            parts.append(f"{self.absolute:g} absolute")
        return " + ".join(parts)


EXACT = Tolerance(0, 0, "counts, ids and copies are equal or they are wrong")


@dataclasses.dataclass(frozen=True)
class Property:
    """One statement about PPO that the installed Tunix is held to.

    Attributes:
      id: Short name.
      area: Part of PPO.
      statement: What must hold.
      tolerance: How far off it may be.
      observe: Gathers what Tunix did.
      compare: Sets it beside what is right. Given ids of defects, what is right
        is what these defects, and nothing else, would make of it.
      wrong: Wrong things to have observed, by name; the property refuses each.
      defects: Ids of the known issues that can break it.
      slow: Whether it takes more than a few seconds of its own.
    """

    id: str
    area: str
    statement: str
    tolerance: Tolerance
    observe: Callable[[Context], Observed]
    compare: Callable[[Observed, Collection[str]], Iterator[Comparison]]
    wrong: Mapping[str, Callable[[Observed], Observed]]
    defects: tuple[str, ...] = ()
    slow: bool = False

    def judge(self, observed: Observed, known: Collection[str] = ()) -> list[str]:
        """Return what does not hold, in a sentence each.

        Args:
          observed: From `observe`.
          known: Ids of defects that are taken for granted.

        Returns:
          Nothing if the property holds.
        """
        found = list(self.compare(observed, known))
        if not found:
            return ["nothing was compared"]
        return [messages for each in found if (messages := difference(each, self.tolerance))]

    def distance(self, observed: Observed, known: Collection[str] = ()) -> float:
        """Return the largest distance in tolerances; for exact ones, 0 or infinity."""
        return max(
            (distance(each, self.tolerance) for each in self.compare(observed, known)),
            default=np.inf,
        )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a property.

    Attributes:
      property: The property.
      status: `pass`; `known-defect` if known issues, and nothing else, break it; `fail`; or
        `error` if it could not be observed.
      messages: What does not hold.
      distance: Largest distance in tolerances.
    """

    property: Property
    status: Status
    messages: list[str]
    distance: float


def run(each: Property, context: Context) -> Outcome:
    """Observe and judges one property.

    Args:
      each: The property.
      context: Where it is observed.

    Returns:
      The outcome; an exception becomes the status `error`.
    """
    try:
        observed = each.observe(context)
        messages = each.judge(observed)
        if not messages:
            return Outcome(each, "pass", [], each.distance(observed))
        unfixed = context.unfixed(each.defects)
        if unfixed and not each.judge(observed, unfixed):
            return Outcome(each, "known-defect", messages, each.distance(observed))
        return Outcome(each, "fail", messages, each.distance(observed))
    except Exception as error:
        return Outcome(each, "error", [f"{type(error).__name__}: {error}"], np.inf)


def distance(comparison: Comparison, tolerance: Tolerance) -> float:
    """Return how many tolerances a comparison is off; infinity if it is none of the kind."""
    got, want = np.asarray(comparison.got), np.asarray(comparison.want)
    if got.shape != want.shape or not got.size:
        return np.inf
    exact = not (tolerance.relative or tolerance.absolute)
    if exact or not np.issubdtype(got.dtype, np.floating):
        return 0.0 if np.array_equal(got, want) else np.inf
    got, want = got.astype(np.float64), want.astype(np.float64)
    if not (np.isfinite(got).all() and np.isfinite(want).all()):
        return np.inf
    return float(np.max(np.abs(got - want) / (tolerance.absolute + tolerance.relative * abs(want))))


def difference(comparison: Comparison, tolerance: Tolerance) -> str | None:
    """Describe how a comparison fails, or nothing."""
    if distance(comparison, tolerance) <= 1:
        return None
    got, want = np.asarray(comparison.got), np.asarray(comparison.want)
    if got.shape != want.shape:
        return f"{comparison.what}: shape {got.shape}, not {want.shape}"
    if not got.size:
        return f"{comparison.what}: nothing to compare"
    if got.ndim == 0:
        return f"{comparison.what}: {got}, not {want}"
    position = _worst(got, want)
    return (
        f"{comparison.what}: {got[position]} at {[int(i) for i in position]}, not {want[position]} "
        f"(and so on: {np.sum(got != want)} of {got.size} differ)"
    )


def _worst(got: np.ndarray, want: np.ndarray) -> tuple[np.intp, ...]:
    if np.issubdtype(got.dtype, np.number):
        off = np.abs(got.astype(np.float64) - want.astype(np.float64))
        off = np.where(np.isfinite(off), off, np.inf)
    else:
        off = got != want
    return np.unravel_index(int(np.argmax(off)), got.shape)
