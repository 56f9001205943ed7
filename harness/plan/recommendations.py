"""The page of recommendations, from the plans that `plan --recommend --json` wrote.

`python -m harness.plan.recommendations PAGE.md PLAN.json...` writes it.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from harness import crash, errors, files
from harness.artifacts import reading
from harness.artifacts.plan import Plan
from harness.plan import advice, table

_HEAD = """# Recommended settings

What `python -m harness plan --recommend` found for the reference recipe. Peaks are what the TPU
compiler reports, with all that lives on the chip meanwhile; nothing was run. Seconds are lower
bounds of a global step. Sizes of micro-batches, `model.remat` and the mesh change results by
rounding alone; every other change is named, with what it does. The files in `plans/recommended/`
are for `run --recipe`.
"""


def page(plans: Sequence[Mapping[str, Any]]) -> str:
    """Write the page.

    Args:
      plans: As `plan --recommend --json` writes them.

    Returns:
      Markdown.
    """
    return "\n".join([_HEAD, *("\n".join(_section(plan)) + "\n" for plan in plans)])


def _section(plan: Mapping[str, Any]) -> list[str]:
    found = plan["recommendation"]
    allowed = "".join(f" --allow {name}" for name in found["allowed"])
    model = plan["recipe"]["name"]
    lines = [
        f"## {plan['chip']}{allowed}",
        "",
        f"`python -m harness plan --preset {model} --chip {plan['chip']} --recommend F.toml"
        f"{allowed}`",
        "",
        *_rows(plan),
        "",
    ]
    if found["recommended"] is None:
        return [*lines, f"{advice.shortage(plan)}."]
    before, after = found["rows"][0], found["rows"][found["recommended"]]
    lines += ["| phase | least s, before | least s, after | peak, GiB, after |", "| --- " * 4 + "|"]
    old = {each["name"]: each["seconds"] for each in before["phases"]}
    lines += [
        f"| {each['name']} | {old[each['name']]:.3f} | {each['seconds']:.3f} "
        f"| {table.gib(each['peak_bytes'])} |"
        for each in after["phases"]
    ]
    compiled = [each for each in found["looked_at"] if each["source"] == "compiled"]
    put_off = [each for each in found["looked_at"] if each["source"] == "line"]
    lines += ["", f"Compiled for it: {_programs(compiled)}."]
    if put_off:
        lines += [
            f"Passed over because of a line or of a guess by arithmetic: {_programs(put_off)}."
        ]
    return lines


def _rows(plan: Mapping[str, Any]) -> list[str]:
    lines = [
        "| setting | set | least s a global step | peak, GiB | left free, GiB |",
        "| --- " * 5 + "|",
    ]
    for row in plan["recommendation"]["rows"]:
        seconds, headroom = row["seconds_per_global_step"], row["least_headroom_bytes"]
        if headroom is not None:
            peak, free = table.gib(plan["hbm_bytes"] - headroom), table.gib(headroom)
        else:
            peak, free = "does not fit" if row["fits"] is False else "not compiled", "-"
        # A bar would end the cell, even within code.
        set_ = (text.replace("|", r"\|") for text in row["assignments"])
        changed = " ".join(f"`{text}`" for text in set_) or "-"
        bound = "-" if seconds is None else f"{seconds:.3f}"
        lines.append(f"| {row['title']} | {changed} | {bound} | {peak} | {free} |")
    return lines


def _programs(looked_at: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"`{each['program']}` of {each['sequences']}"
        + (f" ({each['remat']})" if each["remat"] else "")
        for each in looked_at
    )


def main(arguments: Sequence[str]) -> None:
    """Read plans and write the page.

    Args:
      arguments: The page's file, and the plans'.

    Raises:
      HarnessError: A plan cannot be read, or holds no recommendation.
    """
    parser = argparse.ArgumentParser(prog="harness.plan.recommendations")
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("plans", type=pathlib.Path, nargs="+")
    given = parser.parse_args(arguments)
    plans = []
    for source in given.plans:
        plan = reading.read(source, Plan)
        if "rows" not in plan.recommendation.to_json():
            raise errors.HarnessError(
                f"{source} is no plan with a recommendation: plan --recommend F.toml --json "
                f"{source} writes one"
            )
        plans.append(plan.to_json())
    files.write_whole(given.page, page(plans))


if __name__ == "__main__":
    crash.end(lambda: main(sys.argv[1:]))
