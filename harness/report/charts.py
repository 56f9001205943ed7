"""Charts: data and a width in, inline SVG out.

Each is drawn once wide and once narrow, so that its letters are as large on a
phone as on a desk.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.report import forms
from harness.report.drawing import CHARACTER, COLOURS, Drawing, plain, styled

Form = Callable[[float], str]
_STEPS = [1, 2, 2.5, 5, 10]
# Below this width names stand over bars and marks, not before them.
_NARROW = 500
# Styles of lines: width, opacity, whether there is a dot at each point.
_LINES = {
    "line": (2.25, 1.0, False),
    "thin": (1.25, 1.0, False),
    "faint": (1.0, 0.32, False),
    "dots": (1.5, 1.0, True),
}


@dataclasses.dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
      points: Places and values; a value that is None breaks the line.
      tone: Name of its colour.
      style: `line`, `thin`, `faint` (what varies behind a line), or `dots`.
      spans: Intervals: place, low, high.
    """

    points: tuple[tuple[float, float | None], ...]
    tone: str
    style: str = "line"
    spans: tuple[tuple[float, float, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Rule:
    """A line that is not data: a limit that nothing may cross.

    Attributes:
      at: Its value.
      name: Written beside it.
      axis: `x` for an upright line at a place, `y` for a level one at a value.
      estimated: Whether it was only estimated.
      tone: Name of its colour.
    """

    at: float
    name: str
    axis: str = "y"
    estimated: bool = False
    tone: str = "no"


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
      title: What is measured, and its unit.
      form: Writes a value at a tick.
      log: Whether equal ratios are equally far apart.
      low: Where it begins, unless data lie beyond; None for with the data.
      high: Where it ends at least.
    """

    title: str
    form: Form = forms.number
    log: bool = False
    low: float | None = None
    high: float | None = None


@styled
def lines(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    label: str,
    width: float,
    height: float,
    rules: Sequence[Rule] = (),
) -> str:
    """Draw values over places, with intervals and limits.

    Args:
      series: The lines; at least one has a value.
      x: The places' axis.
      y: The values' axis.
      label: What a person who cannot see it should know.
      width: Of the drawing, in pixels.
      height: Of the drawing, in pixels.
      rules: Lines that are not data.

    Returns:
      SVG.
    """
    drawing = Drawing(width, height)
    axes = drawing.axes
    places = sorted({place for each in series for place, _ in each.points})
    _places(drawing, x, places)
    for each in sorted(series, key=lambda each: each.style != "faint"):
        _line(drawing, each)
    upright = [rule for rule in rules if rule.axis == "x"]
    for above, rule in enumerate(upright):
        _upright(drawing, rule, above)
    for rule in rules:
        if rule.axis == "y":
            axes.axhline(rule.at, color=COLOURS[rule.tone], linewidth=2)
            at = {"xycoords": ("axes fraction", "data"), "xytext": (4, 4)}
            drawing.write(rule.name, (0, rule.at), rule.tone, **at)
            axes.update_datalim([(places[0], rule.at * 1.12)])
    axes.grid(visible=False, axis="x")
    axes.set_title(y.title, pad=10 + 16 * len(upright))
    axes.margins(y=0.05)
    low, high = axes.dataLim.intervaly
    if y.low is not None and low >= y.low:
        axes.set_ylim(bottom=y.low, top=None if high > y.low else y.low + 1)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: y.form(value)))
    return drawing.svg(label)


def _places(drawing: Drawing, x: Axis, places: Sequence[float]) -> None:
    axes = drawing.axes
    axes.set_xlabel(x.title)
    if x.log:
        axes.set_xscale("log", base=2)
        axes.margins(x=0.08)
        # The sizes themselves, from the largest on, as many as there is room for.
        widest = max(len(x.form(place)) for place in places) * CHARACTER + 10
        every = math.ceil(len(places) * widest / (drawing.width - 60))
        axes.set_xticks(places[::-1][::every], minor=False)
        axes.set_xticks([], minor=True)
        if len(places) == 1:
            axes.set_xlim(places[0] / 2, places[0] * 2)
    else:
        axes.margins(x=0.01)
        bins = max(2, min(8, int(drawing.width / 70)))
        whole = all(float(place).is_integer() for place in places)
        axes.xaxis.set_major_locator(MaxNLocator(bins, integer=whole, steps=_STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: x.form(value)))


def _line(drawing: Drawing, series: Series) -> None:
    width, opacity, dots = _LINES[series.style]
    colour = COLOURS[series.tone]
    known = [value for _, value in series.points if value is not None]
    mark = {"marker": "o", "markersize": 7, "markeredgecolor": COLOURS["page"]}
    drawing.axes.plot(
        [place for place, _ in series.points],
        [math.nan if value is None else value for _, value in series.points],
        color=colour,
        linewidth=width,
        alpha=opacity,
        **(mark if dots or len(known) == 1 else {}),
    )
    for place, low, high in series.spans:
        drawing.axes.vlines(place, low, high, color=colour, linewidth=2.25, zorder=1.5)


def _upright(drawing: Drawing, rule: Rule, above: int) -> None:
    """Draw an upright line, its name over the axes, the next one's above the last one's."""
    axes = drawing.axes
    if rule.estimated:
        axes.axvline(rule.at, color=COLOURS[rule.tone], linewidth=1.5, linestyle=(0, (3, 2)))
    else:
        axes.axvline(rule.at, color=COLOURS[rule.tone], linewidth=2)
    _name(drawing, rule, above)


def _name(drawing: Drawing, rule: Rule, above: int = 0) -> None:
    # Written towards the middle, so that it stays within the drawing.
    axes = drawing.axes
    axes.autoscale_view()
    across = axes.transData.transform((rule.at, 1)) @ (1, 0)
    right = across > axes.bbox.x0 + axes.bbox.width / 2
    where = {"xycoords": ("data", "axes fraction"), "xytext": (2 if right else -2, 4 + 16 * above)}
    drawing.write(rule.name, (rule.at, 1), rule.tone, ha="right" if right else "left", **where)


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a bar: what it is of, how much, and the name of its colour."""

    name: str
    value: float
    tone: str


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar.

    Attributes:
      name: Before it.
      segments: From its beginning.
      text: At its end.
      span: Interval at its end, None if there is none.
      over: Whether it is beyond the limit.
    """

    name: str
    segments: tuple[Segment, ...]
    text: str
    span: tuple[float, float] | None = None
    over: bool = False


@styled
def bars(
    rows: Sequence[Bar], x: Axis, *, label: str, width: float, limit: Rule | None = None
) -> str:
    """Draw level bars, stacked of parts, and a limit across them.

    Args:
      rows: The bars.
      x: Their axis, from 0.
      label: What a person who cannot see it should know.
      width: Of the drawing, in pixels; where it is narrow the names stand over the bars.
      limit: What no bar should cross.

    Returns:
      SVG.
    """
    above = width < _NARROW
    step = 54 if above else 38
    drawing = Drawing(width, len(rows) * step + 48 + 20 * bool(limit))
    axes = drawing.axes
    middles = [step * (place + (0.66 if above else 0.5)) for place in range(len(rows))]
    for row, middle in zip(rows, middles, strict=True):
        starts = itertools.accumulate((part.value for part in row.segments), initial=0.0)
        for part, start in zip(row.segments, starts, strict=False):
            style = {"color": COLOURS[part.tone], "edgecolor": COLOURS["page"], "linewidth": 1}
            (shape,) = axes.barh(middle, part.value, 24, left=start, **style)
            drawing.tip(shape, f"{row.name}: {part.name} {x.form(part.value)} {x.title}")
        if row.span:
            axes.hlines(middle, *row.span, color=COLOURS["ink"], linewidth=1.5)
    ends = [max(sum(part.value for part in row.segments), *(row.span or (0,))) for row in rows]
    high = max([*ends, limit.at if limit else 0]) * 1.02 or 1.0
    axes.set_xlim(0, high)
    if limit:  # where it is narrow beside the bars alone, for words stand over them
        whole = [(0.0, float(step * len(rows)))]
        for top, bottom in [(y - 16, y + 16) for y in middles] if above else whole:
            axes.vlines(limit.at, top, bottom, COLOURS[limit.tone], linewidth=2)
        _name(drawing, limit)
    for row, middle, end in zip(rows, middles, ends, strict=True):
        tone = "no" if row.over else "ink"
        bold = {"fontweight": "bold" if row.over else "normal"}
        if above:
            drawing.write(row.name, (0, middle - 16))
            where = {"xycoords": ("axes fraction", "data"), "ha": "right"}
            drawing.write(row.text, (1, middle - 16), tone, **where, **bold)
            continue
        reach = end + (len(row.text) * CHARACTER + 12) / (0.75 * width) * high
        if limit and end <= limit.at < reach:
            end = limit.at  # the words would lie on the line
        drawing.write(row.text, (end, middle), tone, xytext=(7, 0), va="center", **bold)
    _level(drawing, x, [row.name for row in rows], middles, len(rows) * step)
    return drawing.svg(label)


def _level(
    drawing: Drawing, x: Axis, names: Sequence[str], middles: Sequence[float], height: float
) -> None:
    """Set up the axes of level bars or marks, which lie at pixels from the top."""
    axes = drawing.axes
    axes.set_ylim(height, 0)
    above = drawing.width < _NARROW
    most = int(0.3 * drawing.width / CHARACTER)
    axes.set_yticks(
        [] if above else middles,
        [] if above else [plain(forms.shorten(name, most)) for name in names],
    )
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel(x.title)
    axes.xaxis.set_major_locator(MaxNLocator(3 if above else 6, steps=_STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: x.form(value)))


@dataclasses.dataclass(frozen=True)
class Mark:
    """An estimate with its interval, a text beside it, and whether its dot is open."""

    value: float
    low: float
    high: float
    text: str
    tone: str
    hollow: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """Estimates of one thing, one under the other."""

    name: str
    marks: tuple[Mark, ...]


@styled
def intervals(
    rows: Sequence[Row], x: Axis, *, label: str, width: float, rule: Rule | None = None
) -> str:
    """Draw estimates as dots with whiskers, level.

    Args:
      rows: The things.
      x: The axis.
      label: What a person who cannot see it should know.
      width: Of the drawing, in pixels; where it is narrow the names stand over the marks.
      rule: An upright line to hold them against.

    Returns:
      SVG.
    """
    above = width < _NARROW
    head, step = (24, 24) if above else (6, 24)
    height = sum(head + 6 + step * len(row.marks) for row in rows)
    drawing = Drawing(width, height + 48 + 20 * bool(rule))
    axes = drawing.axes
    marks = [mark for row in rows for mark in row.marks]
    ends = [end for mark in marks for end in (mark.low, mark.high)] + ([rule.at] if rule else [])
    low, high = min(ends), max(ends)
    air = 0.04 * (high - low) or 0.1
    low = low - air if x.low is None else min(x.low, low)
    high = high + air if x.high is None else max(x.high, high)
    axes.set_xlim(low, high)
    top, middles = 0.0, []
    for row in rows:
        if above:
            drawing.write(row.name, (0, top + 18), xycoords=("axes fraction", "data"))
        top += head
        middles.append(top + step / 2)
        for mark in row.marks:
            _mark(drawing, mark, top + step / 2, (low + high) / 2)
            top += step
        top += 6
    if rule:
        _upright(drawing, dataclasses.replace(rule, axis="x"), 0)
    _level(drawing, x, [row.name for row in rows], middles, height)
    return drawing.svg(label)


def _mark(drawing: Drawing, mark: Mark, at: float, centre: float) -> None:
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
    # Behind the mark, or before it where there is more room.
    behind = (mark.low + mark.high) / 2 < centre
    drawing.write(
        mark.text,
        (mark.high if behind else mark.low, at),
        xytext=(9 if behind else -9, 0),
        ha="left" if behind else "right",
        va="center",
    )
