"""A plan as tables that a person reads."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

GIB = 2**30


def render(plan: Mapping[str, Any]) -> Group:
    """Lay a plan out.

    Args:
      plan: From `planning.make`.

    Returns:
      Something that rich prints.
    """
    parts: list[Any] = [_programs(plan), _phases(plan), _resident(plan)]
    if plan["largest_micro_batches"]:
        parts.append(_largest(plan))
    parts += [_bounds(plan), _recommendation(plan)]
    what = plan["recommendation"]["what_else"]
    if what:
        parts.append(_what_else(what))
    parts += [Text(line) for line in _sentences(plan)]
    return Group(*parts)


def gib(size: int | None) -> str:
    """Write bytes in GiB."""
    return "not reported" if size is None else f"{size / GIB:.2f}"


def _programs(plan: Mapping[str, Any]) -> Table:
    table = Table(title="programs, each alone: HBM of a chip in GiB, by the TPU compiler")
    for name in ("program", "sequences", "arguments", "temporaries", "code", "in all", "fits"):
        table.add_column(name, justify="left" if name == "program" else "right")
    for each in plan["programs"]:
        refused = each["refused"]
        table.add_row(
            each["name"],
            str(each["micro_batch"]),
            *(
                "-" if refused else gib(each[f"{part}_bytes"])
                for part in ("argument", "temp", "code")
            ),
            gib(each["peak_bytes"]),
            "refused" if refused else "yes" if each["fits"] else "NO",
        )
    return table


def _phases(plan: Mapping[str, Any]) -> Table:
    limit = plan["hbm_bytes"]
    table = Table(title=f"phases, with all that lives on the chip: limit {gib(limit)} GiB")
    for name in ("phase", "program", "peak", "headroom", "fits"):
        table.add_column(name, justify="left" if name in ("phase", "program") else "right")
    for each in plan["phases"]:
        table.add_row(
            each["name"],
            each["program"],
            gib(each["peak_bytes"]),
            gib(each["headroom_bytes"]),
            "yes" if each["fits"] else "NO",
        )
    return table


def _resident(plan: Mapping[str, Any]) -> Table:
    table = Table(title="what lives there")
    for name in ("arrays of", "GiB on a chip", "where"):
        table.add_column(name, justify="right" if name.startswith("GiB") else "left")
    for each in plan["resident"]:
        where = "host" if each["pinned"] else each.get("phase", "HBM")
        size = each["bytes"] / GIB
        table.add_row(
            escape(each["name"]),
            f"{size:.3f}" if size >= 0.001 else f"{each['bytes']:,} B",
            where if where in ("host", "HBM") else f"HBM, in the {where}",
        )
    return table


def _largest(plan: Mapping[str, Any]) -> Table:
    table = Table(title="largest micro-batches that fit: sequences in one call")
    for name in ("program", "here", "compiles", "refused", "beside the rest, about"):
        table.add_column(name, justify="left" if name == "program" else "right")
    for each in plan["largest_micro_batches"]:
        table.add_row(
            each["name"],
            *(
                "-" if each[field] is None else str(each[field])
                for field in ("reference", "compiles", "refused", "fits_beside_the_rest_about")
            ),
        )
    return table


def _bounds(plan: Mapping[str, Any]) -> Table:
    roofline = plan["roofline"]
    table = Table(title="least time of a global step (a bound: nothing was run)")
    for name in ("phase", "seconds", "tokens a second", "bound by"):
        table.add_column(
            name, justify="right" if name in ("seconds", "tokens a second") else "left"
        )
    for each in roofline["phases"]:
        table.add_row(
            each["name"],
            f"{each['seconds']:.3f}",
            f"{each['tokens_per_second']:,.0f}",
            each["bound_by"],
        )
    table.add_row(
        "a global step", f"{roofline['seconds_per_global_step']:.3f}", "", "", style="bold"
    )
    return table


def _recommendation(plan: Mapping[str, Any]) -> Table:
    found = plan["recommendation"]
    table = Table(title=f"sizes, with {found['margin']:.0%} of the HBM left free")
    for name in ("setting", "here", "least s a step", "recommended", "least s a step"):
        table.add_column(name, justify="left" if name == "setting" else "right")
    for each in found["settings"]:
        seconds = each["recommended_seconds"]
        choice = each["recommended"]
        table.add_row(
            each["setting"],
            str(each["reference"]),
            f"{each['reference_seconds']:.3f}",
            "--sweep looks" if not found["searched"] else str(choice or "nothing fits"),
            "-" if seconds is None else f"{seconds:.3f}",
        )
    return table


def _what_else(what: list[dict[str, Any]]) -> Table:
    table = Table(title="what else would pay")
    for name in ("change", "least s a step", "critic step, GiB", "what it changes"):
        table.add_column(name)
    for each in what:
        seconds = each["seconds_per_global_step"]
        if seconds is None:
            time = f"{each['seconds_saved_per_token_less'] * 1000:.1f} ms less for each token less"
        else:
            time = f"{each['from_seconds_per_global_step']:.3f} to {seconds:.3f}"
        size = each["critic_step_bytes"]
        table.add_row(
            escape(f"{each['change']}: {' '.join(each['assignments'])}"),
            time,
            "-" if size is None else f"{gib(each['from_critic_step_bytes'])} to {gib(size)}",
            escape(each["changes"]),
        )
    return table


def _sentences(plan: Mapping[str, Any]) -> list[str]:
    roofline, found = plan["roofline"], plan["recommendation"]
    upstream = plan["upstream"]
    lines = [
        f"Tunix {upstream['version']} ({upstream['mode']}) on {plan['chip']}; at least "
        f"{roofline['seconds']:.0f} s for the run's global steps, most of it in the "
        f"{roofline['dominated_by']}",
    ]
    for each in plan["programs"]:
        if each["refused"]:
            lines.append(f"{each['name']} of {each['micro_batch']}: {each['refused']['message']}")
    lines += [f"changes the algorithm: {each}" for each in found["changes_the_algorithm"]]
    if found["nothing_fits"]:
        lines.append(
            f"no size of {', '.join(found['nothing_fits'])} fits beside what lives on the chip: "
            "take more chips (sharding.fsdp), or see what else would pay"
        )
    lines.append("the plan fits" if plan["fits"] else "the plan does NOT fit")
    return lines
