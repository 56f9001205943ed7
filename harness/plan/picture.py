"""A plan as a picture: HBM by phase, stacked, against the chip's limit.

`python -m harness.plan.picture PLAN.json OUT.svg` draws it.
"""

import html
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from harness import crash, errors, files

GIB = 2**30
_WIDTH, _LEFT, _RIGHT, _TOP = 860, 130, 40, 58
_BAR, _GAP = 30, 16
# Kinds of memory in the order of the stack, each with its colour (Okabe and Ito).
# A part is of the first kind whose beginnings its name has.
_KINDS = (
    ("actor, frozen base", "#0072B2", ("actor base",)),
    ("actor, LoRA and its optimizer", "#56B4E9", ("actor ",)),
    ("critic, its optimizer", "#8FD3BD", ("critic ",)),
    ("critic, weights", "#009E73", ("critic",)),
    ("cache, inputs, batches", "#F0E442", ("key-value", "inputs", "cached")),
    ("results with room of their own", "#CC79A7", ("results",)),
    ("temporaries", "#D55E00", ("temporaries", "the program")),
    ("code", "#777777", ("code",)),
)


def draw(plan: Mapping[str, Any]) -> str:
    """Draw a plan.

    Args:
      plan: As JSON.

    Returns:
      An SVG.
    """
    limit = plan["hbm_bytes"]
    phases = plan["phases"]
    peaks = [phase["peak_bytes"] or 0 for phase in phases]
    scale = (_WIDTH - _LEFT - _RIGHT) / (max(limit, *peaks) * 1.04)
    bottom = _TOP + len(phases) * (_BAR + _GAP)
    legend = -(-len(_KINDS) // 3)
    height = bottom + 44 + 20 * legend
    model, chip = plan["recipe"]["name"], plan["chip"]
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(16, 24, f"HBM of a chip by phase: {model} on {chip}", size=16, weight="bold"),
    ]
    for tick in range(0, int(limit / GIB) + 1, 5):
        x = _LEFT + tick * GIB * scale
        out.append(_line(x, _TOP - 6, x, bottom, "#dddddd"))
        out.append(_text(x, bottom + 16, f"{tick}", anchor="middle", colour="#555555"))
    labels: list[str] = []
    for place, phase in enumerate(phases):
        y = _TOP + place * (_BAR + _GAP)
        out.append(_text(_LEFT - 8, y + 20, phase["name"], anchor="end"))
        x = float(_LEFT)
        for kind, colour, size in _stack(phase["parts"]):
            width = size * scale
            out.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}">'
                f"<title>{html.escape(f'{kind}: {size / GIB:.2f} GiB')}</title></rect>"
            )
            x += width
        said = "refused" if phase["peak_bytes"] is None else f"{phase['peak_bytes'] / GIB:.1f}"
        labels.append(_text(x + 5, y + 20, said, colour="#222222", halo=True))
    x = _LEFT + limit * scale
    out += [_line(x, _TOP - 12, x, bottom, "#B00020", 2), *labels]
    label = f"limit {limit / GIB:.2f} GiB"
    out.append(_text(x - 4, _TOP - 14, label, anchor="end", colour="#B00020"))
    out.append(_text(_WIDTH - _RIGHT, bottom + 16, "GiB", anchor="end", colour="#555555"))
    for place, (kind, colour, _) in enumerate(_KINDS):
        x, y = 16 + place % 3 * 280, bottom + 36 + place // 3 * 20
        out.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>')
        out.append(_text(x + 18, y + 11, kind))
    return "\n".join([*out, "</svg>"]) + "\n"


def _stack(parts: list[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """Add parts up by kind, in the order of the kinds."""
    sums = dict.fromkeys((kind for kind, _, _ in _KINDS), 0)
    for part in parts:
        sums[_kind(part["name"])] += part["bytes"]
    return [(kind, colour, sums[kind]) for kind, colour, _ in _KINDS if sums[kind] > 0]


def _kind(name: str) -> str:
    exact = {names[0]: kind for kind, _, names in _KINDS}
    if name in exact:
        return exact[name]
    return next(kind for kind, _, names in _KINDS if any(name.startswith(start) for start in names))


def _text(
    x: float,
    y: float,
    said: str,
    *,
    anchor: str = "start",
    colour: str = "#000000",
    size: int = 13,
    weight: str = "normal",
    halo: bool = False,
) -> str:
    around = ' paint-order="stroke" stroke="#ffffff" stroke-width="4"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
        f'font-size="{size}" font-weight="{weight}"{around}>{html.escape(said)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width}"/>'
    )


def main(arguments: list[str]) -> None:
    """Read a plan and writes its picture.

    Args:
      arguments: The plan's file, and the picture's.

    Raises:
      HarnessError: The plan cannot be read, or the picture not be written.
    """
    source, target = (pathlib.Path(each) for each in arguments)
    try:
        plan = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.HarnessError(f"plan {source} cannot be read: {error}") from None
    files.write_whole(target, draw(plan))


if __name__ == "__main__":
    crash.end(lambda: main(sys.argv[1:]))
