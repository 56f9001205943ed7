"""The page of the committed plan of the reference recipe, read from its file."""

import json
import pathlib
from typing import Any

from harness.docs import markdown

PLAN = pathlib.Path(__file__).parents[2] / "plans" / "gemma3-1b.v6e-1.json"
_GIB = 2**30


def page() -> str:
    """Return the page: memory of programs and phases, bounds, and largest micro-batches.

    Raises:
      OSError: The plan cannot be read; the page is written from a checkout.
    """
    plan = json.loads(PLAN.read_text(encoding="utf-8"))
    upstream = plan["upstream"]
    versions = ", ".join(f"{name} {found}" for name, found in plan["versions"].items())
    limit = plan["hbm_bytes"] / _GIB
    blocks = [
        f"What `plan --preset {plan['recipe']['name']} --chip {plan['chip']}` reports, for Tunix "
        f"{upstream['version']} with {len(upstream['fixes'])} "
        f"fixes; compiled with {versions}. Bytes are the compiler's; times are lower bounds by "
        "arithmetic. Nothing was run. `nox -s plan -- --update` makes the plan again.",
        "## Programs",
        "HBM of a chip that each program takes by itself, in GiB. New results are those that are "
        "not written over an argument.",
        _programs(plan),
        "## Phases",
        "All that lives on a chip while the phase runs.",
        _phases(plan, limit),
        f"A global step takes at least {plan['roofline']['seconds_per_global_step']:.3f} s, "
        f"most of it in the {plan['roofline']['dominated_by']}.",
        "## Largest micro-batches",
        _largest(plan),
    ]
    return markdown.page("Plan of the reference recipe", *blocks)


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / _GIB:.2f}"


def _programs(plan: dict[str, Any]) -> str:
    header = ("program", "sequences", "arguments", "new results", "temporaries", "code", "in all")
    lines = [
        [
            markdown.code(each["name"]),
            str(each["micro_batch"]),
            _gib(each["argument_bytes"]),
            _gib(each["output_bytes"] - each["alias_bytes"]),
            _gib(each["temp_bytes"]),
            _gib(each["code_bytes"]),
            _gib(each["peak_bytes"]),
        ]
        for each in plan["programs"]
    ]
    return markdown.table(header, lines)


def _phases(plan: dict[str, Any], limit: float) -> str:
    bounds = {each["name"]: each for each in plan["roofline"]["phases"]}
    header = (
        *("phase", "peak, GiB", f"headroom to {limit:.2f} GiB"),
        *("least seconds a global step", "bound by"),
    )
    lines = [
        [
            each["name"],
            _gib(each["peak_bytes"]),
            _gib(each["headroom_bytes"]) if each["fits"] else "does not fit",
            f"{bounds[each['name']]['seconds']:.3f}",
            bounds[each["name"]]["bound_by"],
        ]
        for each in plan["phases"]
    ]
    return markdown.table(header, lines)


def _largest(plan: dict[str, Any]) -> str:
    found = plan.get("largest_micro_batches", [])
    if not found:
        return "The committed plan has none."
    header = ("program", "reference", "compiles", "refused", "beside the rest, about")
    fields = ("reference", "compiles", "refused", "fits_beside_the_rest_about")
    lines = [
        [
            markdown.code(each["name"]),
            *("-" if each[field] is None else str(each[field]) for field in fields),
        ]
        for each in found
    ]
    return (
        "Sequences in one call: the most that the compiler accepts for a program alone, the "
        "fewest that it refuses, and, off a line through compiled sizes, how many fit beside all "
        "else that lives on the chip.\n\n" + markdown.table(header, lines)
    )
