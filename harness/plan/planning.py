"""A plan: each program's memory, each phase's peak, bounds, and better sizes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from harness import programs, upstream
from harness import recipe as recipe_lib
from harness.artifacts import plan as artifact
from harness.plan import bounds, largest, roofline, shapes, sizes, store
from harness.plan.phases import phases
from harness.plan.planner import Compiled, Planner


def make(
    planner: Planner,
    *,
    names: Sequence[str] = (),
    micro_batches: Sequence[int] = (),
    sweep: bool = False,
) -> dict[str, Any]:
    """Make a plan.

    Args:
      planner: The recipe and the compiler.
      names: Programs to look at; all of the recipe's if empty.
      micro_batches: Sequences in one call, instead of the recipe's own.
      sweep: Whether to look for the largest micro-batches and for better sizes.

    Returns:
      The plan as plain JSON values.

    Raises:
      HarnessError: A program is unknown, or the compiler failed for a reason
        other than memory.
    """
    shapes.check(names)
    recipe, limit = planner.recipe, planner.slice.chip.hbm_bytes
    chosen = [name for name in shapes.of(recipe) if not names or name in names]
    asked = [
        (name, size) for name in chosen for size in micro_batches or (planner.sequences(name),)
    ]
    # The longest compilations first, so that no core is idle at the end.
    asked.sort(key=lambda each: each[0] not in programs.TRAIN)
    calls: list[Callable[[], Any]] = [planner.resident]
    calls += [lambda name=name, size=size: planner.ask(name, size) for name, size in asked]
    resident, *compiled = planner.at_once(calls)
    compiled.sort(key=lambda each: (chosen.index(each.program), each.sequences))
    found = phases(compiled, resident, limit, recipe)
    tree = {
        **header(planner, recipe),
        "resident": resident,
        "programs": [program_to_dict(each, planner) for each in compiled],
        "phases": [phase.to_dict(limit) for phase in found],
        "largest_micro_batches": largest.of_programs(planner, resident, chosen) if sweep else [],
        "roofline": bounds.bounds(recipe, planner.slice, planner.fixes),
        "recommendation": sizes.recommend(planner, resident, sweep),
        "host": {"peak_bytes_of_a_compiler": planner.compiler.host_bytes},
        "fits": all(phase.fits for phase in found),
    }
    return artifact.Plan.model_validate(tree).to_json()


def header(planner: Planner, recipe: recipe_lib.Recipe) -> dict[str, Any]:
    """Return what every plan begins with, as plain JSON values.

    Args:
      planner: The slice, and which Tunix is planned for.
      recipe: What is planned.
    """
    return {
        "schema": artifact.SCHEMA,
        "chip": planner.slice.name,
        "chips": planner.slice.count,
        "hbm_bytes": planner.slice.chip.hbm_bytes,
        "upstream": {
            "mode": planner.mode,
            "version": upstream.installed_version(),
            "fixes": list(planner.fixes),
        },
        "versions": store.versions(),
        "recipe": recipe_lib.to_dict(recipe),
    }


def program_to_dict(compiled: Compiled, planner: Planner) -> dict[str, Any]:
    """Return a program as plain JSON values; what a refused one lacks is null.

    Args:
      compiled: The program.
      planner: Its recipe and slice.
    """
    figures, slice_ = compiled.figures, planner.slice
    refused = figures.refused
    least = roofline.work(planner.recipe, compiled.program, compiled.sequences)
    dtype = roofline.dtype_of(planner.recipe, compiled.program)
    bound = roofline.bound(least, slice_.chip, dtype, slice_.count)

    def known(value: float) -> float | None:
        return None if refused else value

    return {
        "name": compiled.program,
        "micro_batch": compiled.sequences,
        "argument_bytes": known(figures.argument_bytes),
        "output_bytes": known(figures.output_bytes),
        "alias_bytes": known(figures.alias_bytes),
        "temp_bytes": known(figures.temp_bytes),
        "code_bytes": known(figures.code_bytes),
        "peak_bytes": figures.peak_bytes,
        "flops": known(figures.flops),
        "bytes_accessed": known(figures.bytes_accessed),
        "fits": refused is None and (figures.peak_bytes or 0) <= slice_.chip.hbm_bytes,
        "refused": dataclasses.asdict(refused) if refused else None,
        "compile_seconds": round(figures.compile_seconds, 1),
        "cached": compiled.cached,
        "least_flops": least.flops,
        "least_bytes": least.bytes,
        "least_seconds": bound.seconds,
        "bound_by": bound.limit,
    }
