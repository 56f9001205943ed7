"""The out-of-memory wall: how many sequences a program takes at most."""

import dataclasses
import math
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the judge says of one size.

    Attributes:
      fits: Whether it fits.
      bytes: What it takes or would take, none if that is not known.
    """

    fits: bool
    bytes: int | None


@dataclasses.dataclass(frozen=True)
class Wall:
    """Where a program stops fitting.

    Attributes:
      fits: Largest size that fits; 0 if not even the smallest does.
      refused: Smallest size that does not, none if all up to the limit fit.
    """

    fits: int
    refused: int | None


def find(
    judge: Callable[[int], Verdict],
    *,
    start: int,
    step: int,
    limit: int,
    capacity: int,
    floor: int = 0,
) -> Wall:
    """Finds the wall by bisection, guessing where memory is nearly a straight line.

    Each size is judged at most once. Both sides of the wall that is given were
    judged, whatever the guesses were.

    Args:
      judge: Says whether a size fits. Where a size fits, smaller ones are taken
        to fit too.
      start: A size to begin with, a multiple of `step`.
      step: Sizes are multiples of it.
      limit: No size above is asked about, a multiple of `step`.
      capacity: Bytes that there are, for the guesses.
      floor: Bytes that no sequence at all would take, for the guesses.

    Returns:
      The wall, its two sides `step` apart.
    """
    low, high = 0, limit // step + 1
    seen = {0: floor}
    guess = start // step
    judged = 0
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        width = high - low
        verdict = judge(guess * step)
        judged += 1
        if verdict.bytes is not None:
            seen[guess] = verdict.bytes
        if verdict.fits:
            low = guess
        else:
            high = guess
        guess = _guess(seen, low, high, limit // step, capacity)
        if judged == 1 and verdict.fits:
            # A refusal is quick and tells the bytes too: look beyond the wall first.
            guess *= 2
        elif high - low > max(width // 2, 1) and high <= limit // step:
            # The line leads astray, and would creep towards the wall size by size.
            guess = (low + high) // 2
    return Wall(low * step, None if high > limit // step else high * step)


def estimate(seen: Mapping[int, int], capacity: int) -> int | None:
    """Tells about how many sequences fit, on the line through two sizes that are known.

    Args:
      seen: Bytes that sizes take.
      capacity: Bytes that there are.

    Returns:
      A size, none if fewer than two are known or bytes do not grow with it.
    """
    nearest = sorted(seen, key=lambda size: abs(seen[size] - capacity))[:2]
    if len(nearest) < 2:
        return None
    a, b = sorted(nearest)
    if seen[b] <= seen[a]:
        return None
    return max(0, math.floor(a + (capacity - seen[a]) * (b - a) / (seen[b] - seen[a])))


def _guess(seen: dict[int, int], low: int, high: int, limit: int, capacity: int) -> int:
    """Guesses the largest size that fits."""
    guess = estimate(seen, capacity)
    if guess is not None:
        # Where the side of the guess is known already, its neighbour is asked about.
        return min(max(guess, low + 1), high - 1)
    # No line yet: double until something is refused, then halve.
    return low * 2 if high > limit and low else (low + high) // 2
