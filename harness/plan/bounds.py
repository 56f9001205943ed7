"""Lower bounds of the times of a global step: the roofline, summed over its calls."""

from collections.abc import Collection
from typing import Any

from harness import hardware, programs
from harness import recipe as recipe_lib
from harness.plan import roofline, shapes


def bounds(
    recipe: recipe_lib.Recipe, slice_: hardware.Slice, fixes: Collection[str]
) -> dict[str, Any]:
    """Return lower bounds of the times of a global step, as plain JSON values.

    Args:
      recipe: Shapes and sizes.
      slice_: The chips; others are compared one for one.
      fixes: Ids of the fixes of Tunix.

    Returns:
      `phases` (`name`, `seconds` in a global step, `tokens_per_second`,
      `bound_by`), `seconds_per_global_step`, `seconds`, `dominated_by`, and
      `other_chips`.
    """
    found = _phase_bounds(recipe, slice_.chip, slice_.count, fixes)
    total = sum(each["seconds"] for each in found)
    return {
        "note": "lower bounds: matrix products at the published rate, unavoidable traffic at "
        "the published bandwidth; nothing was run",
        "phases": found,
        "seconds_per_global_step": total,
        "seconds": total * roofline.global_steps(recipe),
        "dominated_by": max(found, key=lambda each: each["seconds"])["name"],
        "other_chips": [
            {
                "chip": chip.name,
                "chips": slice_.count,
                "seconds_per_global_step": _seconds(recipe, chip, slice_.count, fixes),
            }
            for chip in hardware.CHIPS
        ],
    }


def step_seconds(
    recipe: recipe_lib.Recipe, slice_: hardware.Slice, fixes: Collection[str]
) -> float:
    """Return the lower bound of a global step, in seconds.

    Args:
      recipe: Shapes and sizes.
      slice_: The chips.
      fixes: Ids of the fixes of Tunix.
    """
    return _seconds(recipe, slice_.chip, slice_.count, fixes)


def program_seconds(
    recipe: recipe_lib.Recipe, program: str, sequences: int, slice_: hardware.Slice
) -> float:
    """Return the lower bound of all calls of a program in a global step, in seconds.

    Args:
      recipe: Shapes and batch.
      program: Its name.
      sequences: Sequences in one call.
      slice_: The chips.
    """
    bound = program_bound(recipe, program, sequences, slice_.chip, slice_.count)
    return bound.seconds * roofline.calls(recipe, program, sequences)


def program_bound(
    recipe: recipe_lib.Recipe, program: str, sequences: int, chip: hardware.Chip, count: int
) -> roofline.Bound:
    """Return the lower bound of one call of a program.

    Args:
      recipe: Shapes.
      program: Its name.
      sequences: Sequences in the call.
      chip: Each chip.
      count: How many there are.
    """
    work = roofline.work(recipe, program, sequences)
    return roofline.bound(work, chip, roofline.dtype_of(recipe, program), count)


def seconds_per_token_less(
    recipe: recipe_lib.Recipe, slice_: hardware.Slice, fixes: Collection[str]
) -> float:
    """Return what a global step saves where the longest completion is a token shorter.

    Args:
      recipe: Shapes and sizes.
      slice_: The chips.
      fixes: Ids of the fixes of Tunix.
    """
    sequences = shapes.sequences(recipe, "decode", fixes)
    bound = program_bound(recipe, "decode", sequences, slice_.chip, slice_.count)
    per_token = bound.seconds / max(1, recipe.rollout.max_new_tokens - 1)
    return per_token * roofline.calls(recipe, "decode", sequences)


def _seconds(
    recipe: recipe_lib.Recipe, chip: hardware.Chip, count: int, fixes: Collection[str]
) -> float:
    return sum(each["seconds"] for each in _phase_bounds(recipe, chip, count, fixes))


def _phase_bounds(
    recipe: recipe_lib.Recipe, chip: hardware.Chip, count: int, fixes: Collection[str]
) -> list[dict[str, Any]]:
    found = []
    for name, members in programs.PHASES.items():
        here = [member for member in members if member in shapes.of(recipe)]
        if not here:
            continue
        times = {}
        for member in here:
            sequences = shapes.sequences(recipe, member, fixes)
            bound = program_bound(recipe, member, sequences, chip, count)
            times[member] = (
                bound.seconds * roofline.calls(recipe, member, sequences),
                bound.limit,
            )
        seconds = sum(each for each, _ in times.values())
        longest = max(times, key=lambda member: times[member][0])
        # What a rollout yields is the tokens that it makes.
        tokens = roofline.tokens(recipe, here[-1])
        found.append(
            {
                "name": name,
                "seconds": seconds,
                "tokens_per_second": tokens / seconds,
                "bound_by": times[longest][1],
            }
        )
    return found
