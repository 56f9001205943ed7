"""The largest micro-batch that fits: how many sequences a program takes at most."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness import programs
from harness.plan.phases import argument_bytes, beside_bytes
from harness.plan.planner import Planner
from harness.programs import Program

# No recipe rolls out more sequences at once on one host.
_MOST_SEQUENCES = 4096
# What is searched, by name; the longest compilations first.
_SEARCHES: Mapping[str, tuple[Program, ...]] = {
    "critic_step": (Program.CRITIC_STEP,),
    "actor_step": (Program.ACTOR_STEP,),
    "logps": (Program.LOGPS,),
    "values": (Program.VALUES,),
    "rollout": programs.ROLLOUT,
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A judgement of one size.

    Attributes:
      fits: Whether it fits.
      bytes: What it takes or would take, None if that is not known.
    """

    fits: bool
    bytes: int | None


@dataclasses.dataclass(frozen=True)
class Largest:
    """Where a program stops fitting.

    Attributes:
      fits: Largest size that fits; 0 if not even the smallest does.
      refused: Smallest size that does not, None if all up to the limit fit.
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
) -> Largest:
    """Find the largest size by bisection, guessing where memory is nearly a straight line.

    Each size is judged at most once. Both sizes that are returned were judged,
    whatever the guesses were.

    Args:
      judge: Returns whether a size fits. Where a size fits, smaller ones are
        taken to fit too.
      start: A size to begin with, a multiple of `step`.
      step: Sizes are multiples of it.
      limit: No size above is asked about, a multiple of `step`.
      capacity: Bytes that there are, for the guesses.
      floor: Bytes that no sequence at all would take, for the guesses.

    Returns:
      The two sizes, `step` apart.
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
            # A refusal is quick and reports the bytes too: first look at what is too large.
            guess *= 2
        elif high - low > max(width // 2, 1) and high <= limit // step:
            # The line leads astray, and would creep towards the largest size by size.
            guess = (low + high) // 2
    return Largest(low * step, None if high > limit // step else high * step)


def estimate(seen: Mapping[int, int], capacity: int) -> int | None:
    """Estimate how many sequences fit, on the line through the two sizes nearest to the capacity.

    Args:
      seen: Bytes that sizes take.
      capacity: Bytes that there are.

    Returns:
      A size, None if fewer than two are known or bytes do not grow with it.
    """
    nearest = sorted(seen, key=lambda size: abs(seen[size] - capacity))[:2]
    if len(nearest) < 2:
        return None
    return _on_line(seen, min(nearest), max(nearest), capacity)


def estimate_between(seen: Mapping[int, int], capacity: int) -> int | None:
    """Estimate how many sequences fit, on the line from the largest that fits to the next known.

    Close to what a chip has, the compiler trades time for memory, and sizes there take nearly the
    same: a line through two of them says nothing of less memory.

    Args:
      seen: Bytes that sizes take.
      capacity: Bytes that there are.

    Returns:
      A size, None as for `estimate`.
    """
    below = [size for size in seen if seen[size] <= capacity]
    above = [size for size in seen if seen[size] > capacity]
    if below and above and max(below) < min(above):
        return _on_line(seen, max(below), min(above), capacity)
    return estimate(seen, capacity)


def _on_line(seen: Mapping[int, int], a: int, b: int, capacity: int) -> int | None:
    if seen[b] <= seen[a]:
        return None
    return max(0, math.floor(a + (capacity - seen[a]) * (b - a) / (seen[b] - seen[a])))


def _guess(seen: dict[int, int], low: int, high: int, limit: int, capacity: int) -> int:
    """Guess the largest size that fits."""
    guess = estimate(seen, capacity)
    if guess is not None:
        # Where the side of the guess is known already, its neighbour is asked about.
        return min(max(guess, low + 1), high - 1)
    # No line yet: double until something is refused, then halve.
    return low * 2 if high > limit and low else (low + high) // 2


def of_programs(
    planner: Planner, resident: Sequence[Mapping[str, Any]], chosen: Sequence[str]
) -> list[dict[str, Any]]:
    """Find the largest micro-batch of each program.

    Args:
      planner: The recipe and the compiler.
      resident: What lives on a chip.
      chosen: The programs.

    Returns:
      Plain JSON values, for each search that has a program among `chosen`.
    """
    searches = []
    for name, members in _SEARCHES.items():
        here = [member for member in members if member in chosen]
        if here:
            searches.append(
                lambda name=name, here=here: _of_programs(planner, resident, name, here)
            )
    return planner.at_once(searches)


def _of_programs(
    planner: Planner, resident: Sequence[Mapping[str, Any]], name: str, members: Sequence[str]
) -> dict[str, Any]:
    """Find the largest micro-batch of programs with the chip to themselves, by the compiler.

    Beside what else lives on the chip fewer sequences fit, and no compiler
    looks at that: the size is read off the line through compiled ones.
    """
    limit, step = planner.slice.chip.hbm_bytes, planner.recipe.sharding.fsdp
    start = max(planner.sequences(member) for member in members)
    seen: dict[str, dict[int, int]] = {member: {} for member in members}
    refusals: dict[int, dict[str, Any]] = {}

    def judge(sequences: int) -> Verdict:
        worst = 0
        for member in members:
            figures = planner.ask(member, sequences).figures
            if figures.refused:
                refusals[sequences] = {"program": member, **dataclasses.asdict(figures.refused)}
                return Verdict(False, figures.peak_bytes)
            seen[member][sequences] = figures.peak_bytes or 0
            worst = max(worst, figures.peak_bytes or 0)
        return Verdict(True, worst)

    found = find(
        judge,
        start=start,
        step=step,
        limit=_MOST_SEQUENCES // step * step,
        capacity=limit,
        floor=argument_bytes(members[0], resident, planner.recipe),
    )
    estimates = [
        estimate_between(seen[member], limit - beside_bytes(member, resident, planner.recipe))
        for member in members
    ]
    known = [min(each, found.fits) // step * step for each in estimates if each is not None]
    return {
        "name": name,
        "programs": list(members),
        "reference": start,
        "compiles": found.fits,
        "refused": found.refused,
        "refusal": refusals.get(found.refused or 0),
        "fits_beside_the_rest_about": min(known) if known else None,
    }
