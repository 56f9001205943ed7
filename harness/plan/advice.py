"""A recommendation as a person reads it: a table, and a TOML that `run --recipe` takes."""

import textwrap
from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness import recipe as recipe_lib
from harness.plan import changes, table

_LOWER_BOUNDS = (
    "Times are lower bounds, and nothing was run: matrix products at the published rate, and "
    "unavoidable traffic at the published bandwidth. Communication between chips, element-wise "
    "work, padding to tiles and whatever else spills to HBM come on top. Sizes are the TPU "
    "compiler's; what the allocator of a real chip adds is not in them."
)
_NOTHING = "nothing, but for rounding"


def to_toml(plan: Mapping[str, Any]) -> str:
    """Write the recommended recipe, headed by what it changes and what it gains.

    Args:
      plan: From `recommend.make`, with a recommendation.

    Returns:
      TOML of a whole recipe. What would change what is sampled is in it as a
      comment that is ready to be used.
    """
    found = plan["recommendation"]
    recipe = recipe_lib.from_dict(found["recipe"])
    before, after = found["rows"][0], found["rows"][found["recommended"]]
    upstream, versions = plan["upstream"], plan["versions"]
    lines = [
        f"Recommended for {plan['chip']} by `ppo-harness plan --recommend`, from {recipe.name}.",
        f"Compiled with Tunix {upstream['version']} ({upstream['mode']}), jax {versions['jax']} "
        f"and libtpu {versions['libtpu']}. Run it with `ppo-harness run --recipe THIS --out DIR`.",
        "",
        "What it changes, and what that does to the algorithm:",
        *[f"  {text}: {effect}" for text, effect in explained(found, after)],
        "" if found["assignments"] else "  nothing: the recipe is the best of those searched",
        "What it gains:",
        f"  a global step takes at least {before['seconds_per_global_step']:.3f} s -> "
        f"{after['seconds_per_global_step']:.3f} s",
        *[f"  {line}" for line in _phase_lines(before, after)],
        f"  each phase fits with {table.gib(after['least_headroom_bytes'])} GiB or more of "
        f"{table.gib(plan['hbm_bytes'])} left free",
        "",
        "What remains a lower bound:",
        *[f"  {line}" for line in textwrap.wrap(_LOWER_BOUNDS, 92, break_on_hyphens=False)],
    ]
    stop = found["stop_tokens"]
    if not stop["stops"]:
        lines += ["", *_stop_lines(stop)]
    header = "\n".join(f"# {line}".rstrip() for line in lines)
    return f"{header}\n\n{_with_comment(recipe_lib.to_toml(recipe), stop)}"


def explained(found: Mapping[str, Any], row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pair each assignment of the recommendation with what it does to the algorithm."""
    effects: dict[str, str] = {}
    for change in changes.CHANGES:
        if change.name in row["allow"]:
            effects |= {_field(text): change.effect for text in change.assignments}
    effects["rollout.stop_tokens"] = found["stop_tokens"]["effect"]
    return [(text, effects.get(_field(text), _NOTHING)) for text in found["assignments"]]


def _field(assignment: str) -> str:
    """Return the group and the field of an assignment."""
    return ".".join(assignment.split("=")[0].split(".")[:2])


def _phase_lines(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    old = {each["name"]: each for each in before["phases"]}
    lines = []
    for each in after["phases"]:
        was = old.get(each["name"], {"seconds": None, "peak_bytes": None})
        seconds = "-" if was["seconds"] is None else f"{was['seconds']:.3f}"
        peak = "?" if was["peak_bytes"] is None else table.gib(was["peak_bytes"])
        lines.append(
            f"{each['name']}: at least {seconds} s -> {each['seconds']:.3f} s; "
            f"peak {peak} -> {table.gib(each['peak_bytes'])} GiB"
        )
    return lines


def _stop_lines(stop: Mapping[str, Any]) -> list[str]:
    text = (
        f"Not changed, since it changes what is sampled: completions do not end with the model's "
        f"turn, {changes.END_OF_TURN}, so nearly every one runs to the limit of tokens, and the "
        f"loop ends when all have. Each token less for the longest saves at least "
        f"{stop['seconds_saved_per_token_less'] * 1000:.1f} ms a global step. To change it, take "
        f"the comment sign off {changes.END_OF_TURN} in rollout.stop_tokens below, or ask for it "
        f"by --allow {stop['allow']}."
    )
    return textwrap.wrap(text, 96, break_on_hyphens=False)


def _with_comment(toml: str, stop: Mapping[str, Any]) -> str:
    """Add the stop token to `rollout.stop_tokens` as a comment."""
    if stop["stops"]:
        return toml
    lines, inside = [], False
    for text in toml.splitlines():
        inside = inside or text.startswith("stop_tokens = [")
        if inside and text == "]":
            lines.append(f'    # "{changes.END_OF_TURN}",')
            inside = False
        lines.append(text)
    return "\n".join(lines) + "\n"


def render(plan: Mapping[str, Any]) -> Group:
    """Lay a recommendation out.

    Args:
      plan: From `recommend.make`.

    Returns:
      Something that rich prints.
    """
    found = plan["recommendation"]
    parts: list[Any] = [_rows(plan), _looked_at(found)]
    if found["recommended"] is not None:
        row = found["rows"][found["recommended"]]
        parts.append(_changes(found, row))
    parts += [Text(line) for line in _sentences(plan)]
    return Group(*parts)


def _rows(plan: Mapping[str, Any]) -> Table:
    found = plan["recommendation"]
    title = f"settings for {plan['chip']}: HBM of a chip {table.gib(plan['hbm_bytes'])} GiB"
    out = Table(title=title)
    for name in ("setting", "least s a step", "peak, GiB", "free, GiB", "fits", "by --allow"):
        out.add_column(name, justify="left" if name in ("setting", "by --allow") else "right")
    for index, row in enumerate(found["rows"]):
        seconds = row["seconds_per_global_step"]
        headroom = row["least_headroom_bytes"]
        peak = None if headroom is None else plan["hbm_bytes"] - headroom
        out.add_row(
            escape(row["title"]),
            "-" if seconds is None else f"{seconds:.3f}",
            "-" if peak is None else table.gib(peak),
            "-" if headroom is None else table.gib(headroom),
            {True: "yes", False: "NO", None: "not asked"}[row["fits"]],
            " ".join(row["allow"]),
            style="bold" if index == found["recommended"] else None,
        )
    return out


def _looked_at(found: Mapping[str, Any]) -> Table:
    out = Table(title="programs that were looked at, with all that lives on the chip")
    for name in ("program", "sequences", "remat", "dtype", "mesh", "peak, GiB", "by"):
        out.add_column(name, justify="right" if name in ("sequences", "peak, GiB") else "left")
    for each in found["looked_at"]:
        peak = each["peak_bytes"]
        refused = each["accepted"] is False
        out.add_row(
            each["program"],
            str(each["sequences"]),
            each["remat"] or "-",
            each["dtype"],
            "-" if each["mesh"] is None else " x ".join(map(str, each["mesh"])),
            "-" if peak is None else table.gib(peak),
            "the compiler, refused"
            if refused
            else {"compiled": "the compiler", "line": "a line, not compiled"}[each["source"]],
        )
    return out


def _changes(found: Mapping[str, Any], row: Mapping[str, Any]) -> Table:
    out = Table(title=f"what is recommended: {escape(row['title'])}")
    out.add_column("setting")
    out.add_column("what it does to the algorithm")
    for text, effect in explained(found, row):
        out.add_row(escape(text), escape(effect))
    return out


def _sentences(plan: Mapping[str, Any]) -> list[str]:
    found, lines = plan["recommendation"], []
    for row in found["rows"]:
        lines += [f"{row['title']}: {effect}" for effect in row["effects"]]
    stop = found["stop_tokens"]
    if not stop["stops"]:
        lines.append(" ".join(_stop_lines(stop)))
    lines.append(_LOWER_BOUNDS)
    if found["recommended"] is None:
        lines.append(shortage(plan))
    return lines


def shortage(plan: Mapping[str, Any]) -> str:
    """Return in one line that nothing fits, what comes nearest, and what else could.

    Args:
      plan: From `recommend.make`, without a recommendation.

    Returns:
      A line.
    """
    found = plan["recommendation"]
    searched = [row for row in found["rows"][1:] if row["searched"]]
    row = min(searched, key=lambda each: each["short_bytes"] or 2**62)
    nearest, short = row["nearest"], row["short_bytes"]
    what = {
        "state": "what lives on the chip in every phase",
        "compiled": f"{nearest['program']}, with what lives beside it,",
        "line": f"{nearest['program']}, as a line predicts,",
    }[nearest["source"]]
    figures = (
        "the compiler refuses it without a figure"
        if short is None
        else f"{what} takes {table.gib(nearest['peak_bytes'])} GiB, {short:,} bytes more than the "
        f"{table.gib(nearest['peak_bytes'] - short)} that may be taken"
    )
    others = [
        " ".join(f"--allow {name}" for name in each["allow"])
        for each in found["rows"]
        if not each["searched"] and each["fits"] is None and each["allow"]
    ]
    may = f"; may fit: {' or '.join(others)}" if others else ""
    algorithm = (
        "" if any(each["allow"] for each in searched) else (" that leaves the algorithm as it is")
    )
    return (
        f"no setting{algorithm} fits {plan['chip']}: the nearest is {nearest['setting']}, where "
        f"{figures}{may}"
    )
