"""Charts: data in, inline SVG out.

Each is drawn once wide and once narrow, so that its letters are as large on a
phone as on a desk.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Concatenate, NamedTuple, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis as Ticks
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.report import forms
from harness.report.drawing import CHARACTER, COLOURS, STYLE, Drawing
from harness.report.page import Picture

Form = Callable[[float], str]
_P = ParamSpec("_P")


class Size(NamedTuple):
    """How wide a chart is on a desk and on a phone, in pixels, and its class in the style sheet."""

    wide: float
    narrow: float
    name: str


# Across the page, two side by side, and three, which are two on a phone.
WIDE, HALF, PANEL = Size(1040, 350, "across"), Size(504, 350, "half"), Size(330, 168, "third")
_STEPS = [1, 2, 2.5, 5, 10]
# Styles of lines: width, opacity, whether there is a dot at each point.
_LINES = {
    "line": (2.25, 1.0, False),
    "thin": (1.25, 1.0, False),
    "faint": (1.0, 0.32, False),
    "dots": (1.5, 1.0, True),
}
# Of a bar or a mark, with the line of text over it, in pixels.
_BAR, _MARK, _HEAD = 54, 24, 30


class Axis(NamedTuple):
    """An axis: what is measured, how a value is written, and where the axis begins and ends.

    It begins at `low` unless data lie beyond; None leaves that, or the end, to the data. Where
    `log` is set, equal ratios are equally far apart.
    """

    title: str
    form: Form = forms.number
    log: bool = False
    low: float | None = None
    high: float | None = None


class Series(NamedTuple):
    """A line in a colour: positions and values, which None breaks, and intervals.

    Its style is `line`, `thin`, `faint` (what varies behind a line) or `dots`; an interval is a
    position and both ends.
    """

    points: Sequence[tuple[float, float | None]]
    tone: str
    style: str = "line"
    spans: Sequence[tuple[float, float, float]] = ()


class Rule(NamedTuple):
    """A line that is not data, such as a limit, with its name; `upright` at a position."""

    at: float
    name: str
    upright: bool = False
    estimated: bool = False
    tone: str = "no"


class Segment(NamedTuple):
    """A part of a bar: what it is of, how much, and the name of its colour."""

    name: str
    value: float
    tone: str


class Bar(NamedTuple):
    """A bar of segments, with a name before it, a text behind, and an interval at its end."""

    name: str
    segments: Sequence[Segment]
    text: str
    span: tuple[float, float] | None = None
    over: bool = False


class Mark(NamedTuple):
    """An estimate with its interval, a text beside it, and whether its dot is open."""

    value: float
    low: float
    high: float
    text: str
    tone: str
    hollow: bool = False


class Row(NamedTuple):
    """Estimates of one thing, one under the other."""

    name: str
    marks: Sequence[Mark]


def _pictured(
    draw: Callable[Concatenate[float, _P], str],
) -> Callable[Concatenate[Size, str, _P], Picture]:
    """Let a function that draws a chart of a width draw a `Picture` with a title."""

    @functools.wraps(draw)
    def both(size: Size, title: str, /, *args: _P.args, **kwargs: _P.kwargs) -> Picture:
        with matplotlib.rc_context(STYLE):
            wide, narrow = (draw(width, *args, **kwargs) for width in size[:2])
        return Picture(wide, narrow, title, size.name)

    return both


@_pictured
def lines(
    width: float,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    label: str,
    rules: Sequence[Rule] = (),
) -> str:
    """Draw values over positions, with intervals and limits.

    Args:
      width: Of the drawing, in pixels.
      series: The lines; at least one has a value.
      x: The positions' axis.
      y: The values' axis.
      label: What a person who cannot see it should know.
      rules: Lines that are not data.

    Returns:
      SVG.
    """
    upright = [rule for rule in rules if rule.upright]
    drawing = Drawing(width, 170 + 0.155 * width + 16 * len(upright))
    axes = drawing.axes
    positions = sorted({position for each in series for position, _ in each.points})
    _positions(drawing, x, positions)
    if x.log and len({*positions, *(rule.at for rule in upright)}) == 1:
        axes.set_xlim(positions[0] / 2, positions[0] * 2)
    for each in sorted(series, key=lambda each: each.style != "faint"):
        _line(axes, each)
    for above, rule in enumerate(upright):
        _upright(drawing, rule, above)
    for rule in rules:
        if not rule.upright:
            axes.axhline(rule.at, color=COLOURS[rule.tone], linewidth=2)
            at = {"xycoords": ("axes fraction", "data"), "xytext": (4, 4)}
            drawing.write(rule.name, (0, rule.at), rule.tone, **at)
            axes.update_datalim([(positions[0], rule.at * 1.12)])
    axes.grid(visible=False, axis="x")
    axes.set_title(y.title, pad=10 + 16 * len(upright))
    axes.margins(y=0.05)
    low, high = axes.dataLim.intervaly
    if y.low is not None and low >= y.low:
        axes.set_ylim(bottom=y.low, top=None if high > y.low else y.low + 1)
    _ticks(axes.yaxis, y, 5)
    return drawing.svg(label)


def _ticks(ticks: Ticks, axis: Axis, most: int, *, whole: bool = False) -> None:
    ticks.set_major_locator(MaxNLocator(most, steps=_STEPS, integer=whole))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: axis.form(value)))


def _positions(drawing: Drawing, x: Axis, positions: Sequence[float]) -> None:
    axes = drawing.axes
    axes.set_xlabel(x.title)
    whole = all(float(position).is_integer() for position in positions)
    _ticks(axes.xaxis, x, max(2, min(8, int(drawing.width / 70))), whole=whole)
    axes.margins(x=0.01)
    if x.log:
        form = axes.xaxis.get_major_formatter()
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(form)
        axes.margins(x=0.08)
        # The sizes themselves, from the largest on, as many as there is room for.
        widest = max(len(x.form(position)) for position in positions) * CHARACTER + 10
        every = math.ceil(len(positions) * widest / (drawing.width - 60))
        axes.set_xticks(positions[::-1][::every], minor=False)
        axes.set_xticks([], minor=True)


def _line(axes: Axes, series: Series) -> None:
    width, opacity, dots = _LINES[series.style]
    colour = COLOURS[series.tone]
    known = [value for _, value in series.points if value is not None]
    mark = {"marker": "o", "markersize": 7, "markeredgecolor": COLOURS["page"]}
    axes.plot(
        [position for position, _ in series.points],
        [math.nan if value is None else value for _, value in series.points],
        color=colour,
        linewidth=width,
        alpha=opacity,
        **(mark if dots or len(known) == 1 else {}),
    )
    for position, low, high in series.spans:
        axes.vlines(position, low, high, color=colour, linewidth=2.25, zorder=1.5)


def _upright(drawing: Drawing, rule: Rule, above: int = 0) -> None:
    """Draw an upright line, its name over the axes, the next one's above the last one's."""
    style = {"linewidth": 1.5, "linestyle": (0, (3, 2))} if rule.estimated else {"linewidth": 2}
    drawing.axes.axvline(rule.at, color=COLOURS[rule.tone], **style)
    _name(drawing, rule, above)


def _name(drawing: Drawing, rule: Rule, above: int = 0) -> None:
    # Written towards the middle, so that it stays within the drawing.
    axes = drawing.axes
    axes.autoscale_view()
    across = axes.transData.transform((rule.at, 1)) @ (1, 0)
    right = across > axes.bbox.x0 + axes.bbox.width / 2
    where = {"xycoords": ("data", "axes fraction"), "xytext": (2 if right else -2, 4 + 16 * above)}
    drawing.write(rule.name, (rule.at, 1), rule.tone, ha="right" if right else "left", **where)


@_pictured
def bars(
    width: float, rows: Sequence[Bar], x: Axis, *, label: str, limit: Rule | None = None
) -> str:
    """Draw level bars, stacked of parts, and a limit across them.

    Args:
      width: Of the drawing, in pixels.
      rows: The bars.
      x: Their axis, from 0.
      label: What they are, for a person who cannot see them.
      limit: What no bar should cross.

    Returns:
      SVG.
    """
    drawing = Drawing(width, len(rows) * _BAR + 48 + 20 * bool(limit))
    axes = drawing.axes
    ends = [max(sum(part.value for part in row.segments), *(row.span or (0,))) for row in rows]
    axes.set_xlim(0, max([*ends, limit.at if limit else 0]) * 1.02 or 1.0)
    for position, row in enumerate(rows):
        middle = _BAR * (position + 0.66)
        starts = itertools.accumulate((part.value for part in row.segments), initial=0.0)
        for part, start in zip(row.segments, starts, strict=False):
            style = {"color": COLOURS[part.tone], "edgecolor": COLOURS["page"], "linewidth": 1}
            (shape,) = axes.barh(middle, part.value, 24, left=start, **style)
            drawing.tip(shape, f"{row.name}: {part.name} {x.form(part.value)} {x.title}")
        if row.span:
            axes.hlines(middle, *row.span, color=COLOURS["ink"], linewidth=1.5)
        if limit:  # beside the bars alone, for words stand over them
            axes.vlines(limit.at, middle - 14, middle + 14, COLOURS[limit.tone], linewidth=2)
        _over(drawing, row.name, 0, middle)
        _over(drawing, row.text, 1, middle, bold=row.over)
    if limit:
        _name(drawing, limit)
    _level(drawing, x, len(rows) * _BAR)
    found = "; ".join(f"{row.name} {row.text}" for row in rows)
    return drawing.svg(f"{label}: {found}" + (f"; {limit.name}" if limit else ""))


def _over(drawing: Drawing, text: str, end: int, middle: float, *, bold: bool = False) -> None:
    """Write over a bar or marks, at the beginning or the end of the axis."""
    how = {"xycoords": ("axes fraction", "data"), "ha": "right" if end else "left"}
    weight = "bold" if bold else "normal"
    drawing.write(text, (end, middle - 16), "no" if bold else "ink", fontweight=weight, **how)


def _level(drawing: Drawing, x: Axis, height: float) -> None:
    """Set up the axes of level bars or marks, which lie at pixels from the top."""
    axes = drawing.axes
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel(x.title)
    _ticks(axes.xaxis, x, min(6, int(drawing.width / 100)))


@_pictured
def intervals(
    width: float, rows: Sequence[Row], x: Axis, *, label: str, rule: Rule | None = None
) -> str:
    """Draw estimates as dots with whiskers, level.

    Args:
      width: Of the drawing, in pixels.
      rows: The things.
      x: The axis.
      label: What they are, for a person who cannot see them.
      rule: An upright line to hold them against.

    Returns:
      SVG.
    """
    height = sum(_HEAD + _MARK * len(row.marks) for row in rows)
    drawing = Drawing(width, height + 48 + 20 * bool(rule))
    marks = [mark for row in rows for mark in row.marks]
    ends = [end for mark in marks for end in (mark.low, mark.high)] + ([rule.at] if rule else [])
    low, high = min(ends), max(ends)
    air = 0.04 * (high - low) or 0.1
    low, high = (low - air if x.low is None else x.low, high + air if x.high is None else x.high)
    drawing.axes.set_xlim(low, high)
    top = 0
    for row in rows:
        _over(drawing, row.name, 0, top + 34)
        for position, mark in enumerate(row.marks):
            at = top + _MARK * (position + 1.5)
            _mark(drawing, mark, at, behind=(mark.low + mark.high) / 2 < (low + high) / 2)
        top += _HEAD + _MARK * len(row.marks)
    if rule:
        _upright(drawing, rule)
    _level(drawing, x, height)
    found = (f"{row.name}: {', '.join(mark.text for mark in row.marks)}" for row in rows)
    return drawing.svg(f"{label}. {'; '.join(found)}")


def _mark(drawing: Drawing, mark: Mark, at: float, *, behind: bool) -> None:
    """Draw an estimate, its text behind it or before it, where there is more room."""
    colour = COLOURS[mark.tone]
    drawing.axes.hlines(at, mark.low, mark.high, color=colour, linewidth=2.25)
    (dot,) = drawing.axes.plot(
        [mark.value],
        [at],
        marker="o",
        markersize=9,
        markerfacecolor=COLOURS["page"] if mark.hollow else colour,
        markeredgecolor=colour,
        markeredgewidth=2.25,
    )
    drawing.tip(dot, mark.text)
    how = {"xytext": (9 if behind else -9, 0), "ha": "left" if behind else "right"}
    drawing.write(mark.text, (mark.high if behind else mark.low, at), va="center", **how)
