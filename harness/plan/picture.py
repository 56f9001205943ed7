"""A plan as a picture: HBM by phase, stacked, against the chip's limit.

`python -m harness.plan.picture PLAN.json OUT.svg` draws it.
"""

import argparse
import io
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from harness import crash, files
from harness.artifacts import reading
from harness.artifacts.plan import GIB, MEMORY_KINDS, Plan, by_kind

# Of the kinds of memory, in their order (Okabe and Ito; greys for code and for what is left).
_COLOURS = (
    *("#0072B2", "#56B4E9", "#8FD3BD", "#009E73", "#F0E442"),
    *("#CC79A7", "#D55E00", "#777777", "#9AA3AD"),
)
_LIMIT = "#B00020"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tunix-ppo-harness",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 12,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "ytick.major.size": 0,
    "grid.color": "#dddddd",
}


@matplotlib.rc_context(_STYLE)
def draw(found: Plan) -> str:
    """Draw a plan.

    Args:
      found: The plan.

    Returns:
      An SVG, the same for the same plan.
    """
    figure = Figure(figsize=(9, 1.6 + 0.45 * len(found.phases)), layout="constrained")
    axes = figure.add_subplot()
    colours = dict(zip((kind for kind, _ in MEMORY_KINDS), _COLOURS, strict=True))
    stacks = [by_kind(phase.parts) for phase in found.phases]
    starts = [0.0] * len(stacks)
    for kind, colour in colours.items():
        sizes = [stack.get(kind, 0) / GIB for stack in stacks]
        if any(sizes):
            axes.barh(range(len(stacks)), sizes, 0.66, left=starts, color=colour, label=kind)
        starts = [start + size for start, size in zip(starts, sizes, strict=True)]
    for position, phase in enumerate(found.phases):
        peak = phase.peak_bytes
        text = "refused" if peak is None else f"{peak / GIB:.1f}"
        axes.annotate(
            text, ((peak or 0) / GIB, position), (5, 0), textcoords="offset points", va="center"
        )
    limit = found.hbm_bytes / GIB
    axes.axvline(limit, color=_LIMIT, linewidth=2)
    axes.annotate(
        f"limit {limit:.2f} GiB",
        (limit, 1),
        (0, 4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=_LIMIT,
        ha="right",
    )
    title = f"HBM of a chip by phase: {found.recipe.get('name', 'a recipe')} on {found.chip}"
    axes.set_title(title, loc="left", pad=22, fontweight="bold")
    axes.set_yticks(range(len(stacks)), [phase.name for phase in found.phases])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("GiB")
    axes.grid(axis="x")
    figure.legend(loc="outside lower left", ncols=3, frameon=False)
    out = io.StringIO()
    FigureCanvasSVG(figure).print_svg(out, metadata={"Title": title, "Date": None, "Creator": None})
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def main(arguments: Sequence[str]) -> None:
    """Read a plan and write its picture.

    Args:
      arguments: The plan's file, and the picture's.

    Raises:
      HarnessError: The plan cannot be read, or the picture not be written.
    """
    parser = argparse.ArgumentParser(prog="harness.plan.picture")
    parser.add_argument("plan", type=pathlib.Path)
    parser.add_argument("svg", type=pathlib.Path)
    given = parser.parse_args(arguments)
    files.write_whole(given.svg, draw(reading.read(given.plan, Plan)))


if __name__ == "__main__":
    crash.end(lambda: main(sys.argv[1:]))
