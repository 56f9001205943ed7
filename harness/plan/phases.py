"""The devices' memory while each phase of a global step runs."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness import programs
from harness import recipe as recipe_lib
from harness.plan import store
from harness.plan.planner import Compiled
from harness.upstream.instrument import programs as upstream_programs


@dataclasses.dataclass(frozen=True)
class Phase:
    """The memory of the chip that holds most while one phase runs.

    Attributes:
      name: The phase.
      program: The program with the peak.
      parts: Bytes by what they are of; their sum is the peak.
      peak_bytes: HBM taken, None if the compiler refused without a figure.
      fits: Whether it is within the chip's.
    """

    name: str
    program: str
    parts: Mapping[str, int]
    peak_bytes: int | None
    fits: bool

    def to_dict(self, limit: int) -> dict[str, Any]:
        """Return plain JSON values.

        Args:
          limit: The chip's bytes.
        """
        return {
            "name": self.name,
            "program": self.program,
            "peak_bytes": self.peak_bytes,
            "headroom_bytes": None if self.peak_bytes is None else limit - self.peak_bytes,
            "fits": self.fits,
            "parts": [{"name": name, "bytes": size} for name, size in self.parts.items()],
        }


def phases(
    compiled: Sequence[Compiled],
    resident: Sequence[Mapping[str, Any]],
    limit: int,
    recipe: recipe_lib.Recipe | None = None,
) -> list[Phase]:
    """Add to each program what else lives on a chip meanwhile.

    Args:
      compiled: The programs.
      resident: What lives there, from `resident.describe`.
      limit: The chip's bytes.
      recipe: Whose programs they are; None for a full critic and a rollout by the policy itself.

    Returns:
      The phases that have a program among `compiled`, in the order of a step;
      each with its worst program.
    """
    found = []
    for name, members in programs.PHASES.items():
        candidates = [
            _phase(name, each, resident, limit, recipe)
            for each in compiled
            if each.program in members
        ]
        if candidates:
            found.append(max(candidates, key=lambda each: each.peak_bytes or math.inf))
    return found


def argument_bytes(
    program: str,
    resident: Sequence[Mapping[str, Any]],
    recipe: recipe_lib.Recipe | None = None,
) -> int:
    """Return the bytes of what lives on a chip and is an argument of a recipe's program."""
    names = upstream_programs.arguments_of(program, recipe)
    return sum(each["bytes"] for each in resident if each["name"] in names)


def beside_bytes(
    program: str,
    resident: Sequence[Mapping[str, Any]],
    recipe: recipe_lib.Recipe | None = None,
) -> int:
    """Return the bytes of what lives on a chip while a program runs and is no argument of it."""
    names = upstream_programs.arguments_of(program, recipe)
    return sum(each["bytes"] for each in _always(resident) if each["name"] not in names)


def state_bytes(resident: Sequence[Mapping[str, Any]]) -> int:
    """Return the bytes of what lives on a chip in every phase."""
    return sum(each["bytes"] for each in _always(resident))


def _always(resident: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [each for each in resident if not each["pinned"] and "phase" not in each]


def _phase(
    name: str,
    compiled: Compiled,
    resident: Sequence[Mapping[str, Any]],
    limit: int,
    recipe: recipe_lib.Recipe | None,
) -> Phase:
    figures = compiled.figures
    parts = {each["name"]: each["bytes"] for each in _always(resident)}
    arguments = argument_bytes(compiled.program, resident, recipe)
    peak: int | None = None
    if figures.refused is None:
        parts |= _own_parts(name, figures, resident, arguments)
        peak = sum(parts.values())
    elif figures.peak_bytes is not None:
        parts["the program, by the compiler"] = figures.peak_bytes - arguments
        peak = sum(parts.values())
    fits = figures.refused is None and peak is not None and peak <= limit
    return Phase(name, compiled.program, {k: v for k, v in parts.items() if v}, peak, fits)


def _own_parts(
    phase: str,
    figures: store.Figures,
    resident: Sequence[Mapping[str, Any]],
    arguments: int,
) -> dict[str, int]:
    """Return the bytes that a program takes beside what lives on the chip, by what they are of."""
    parts = {}
    rest = figures.argument_bytes - arguments
    if phase == "rollout":
        # The sampler's state is made for the call, and all of it grows with the sequences.
        state = [each["bytes"] for each in resident if each.get("phase") == "rollout"]
        cache = next(each for each in resident if each["name"] == "key-value cache")
        parts["key-value cache"] = rest * cache["bytes"] // sum(state)
        rest -= parts["key-value cache"]
    parts["inputs, and padding of arguments"] = rest
    parts["results"] = figures.output_bytes - figures.alias_bytes
    parts["temporaries"] = figures.temp_bytes
    parts["code"] = figures.code_bytes
    return parts
