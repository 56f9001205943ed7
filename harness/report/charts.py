"""Charts: data and a width in, inline SVG out.

Each is drawn once wide and once narrow, so that its letters are as large on a
phone as on a desk.
"""

import dataclasses
import math
from collections.abc import Sequence

from harness.report import svg


@dataclasses.dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
      name: Written at its end.
      points: Places and values; a value that is none breaks the line.
      tone: Class of its colour.
      style: `line`, `faint` (what varies behind a line), or `dots` (a line
        with a dot at each point).
      spans: Intervals: place, low, high.
    """

    name: str
    points: tuple[tuple[float, float | None], ...]
    tone: str
    style: str = "line"
    spans: tuple[tuple[float, float, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Rule:
    """A line that is not data: a limit, a wall, what nothing may cross.

    Attributes:
      at: Its value.
      name: Written beside it.
      axis: `x` for an upright line at a place, `y` for a level one at a value.
      style: Class: `limit`, `guess` for one that was only estimated, or `zero`.
    """

    at: float
    name: str
    axis: str = "y"
    style: str = "limit"


@dataclasses.dataclass(frozen=True)
class Axis:
    """What an axis says.

    Attributes:
      title: What is measured, and its unit.
      form: Writes a value at a tick.
      log: Whether ticks lie at powers of two.
      low: Where it begins; with the data if none.
      high: Where it ends at least.
    """

    title: str
    form: svg.Format = svg.number
    log: bool = False
    low: float | None = None
    high: float | None = None


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
    """Draw values over places, with intervals, limits, and names at the lines' ends.

    Args:
      series: The lines; at least one has a value.
      x: The places' axis.
      y: The values' axis.
      label: What a person who cannot see it should know.
      width: Of the drawing.
      height: Of the drawing.
      rules: Lines that are not data.

    Returns:
      SVG.
    """
    places = [point[0] for each in series for point in each.points]
    values = [point[1] for each in series for point in each.points if point[1] is not None]
    values += [end for each in series for span in each.spans for end in span[1:]]
    places += [rule.at for rule in rules if rule.axis == "x"]
    values += [rule.at for rule in rules if rule.axis == "y"]
    low, high = _range(values, y.low, y.high)
    marks = svg.ticks(low, high)
    named = [each for each in series if each.name and each.style != "faint"]
    left = max(svg.text_width(y.form(mark)) for mark in marks) + 14
    room = max((svg.text_width(each.name) for each in named), default=0) + 16
    right = min(max(room, 16), 0.32 * width)
    upright, level = ([rule for rule in rules if rule.axis == axis] for axis in "xy")
    top = 30 if not upright else 20 + 16 * (len(upright) + bool(level))
    bottom = height - 42
    across = _places(places, x, left + 6, width - right)
    up = svg.Scale(low, high, bottom, top)
    out = [svg.text(0, 13, y.title, "muted")]
    for mark in marks:
        out.append(svg.line(left, up(mark), width - right, up(mark), "grid"))
        out.append(svg.text(left - 7, up(mark) + 4.5, y.form(mark), "muted", "end"))
    for mark in _place_ticks(across, x, sorted(set(places)), width - right - left):
        out.append(svg.line(across(mark), bottom, across(mark), bottom + 4, "axis"))
        out.append(svg.text(across(mark), bottom + 18, x.form(mark), "muted", "middle"))
    out.append(svg.line(left, bottom, width - right, bottom, "axis"))
    out.append(svg.text(width - right, bottom + 36, x.title, "muted", "end"))
    for each in sorted(series, key=lambda each: each.style != "faint"):
        out += _one_line(each, across, up)
    out += _rules(rules, across, up, left, width - right, top)
    out += _end_names(named, across, up, width, top, bottom)
    return svg.drawing(width, height, label, out)


def _range(values: Sequence[float], low: float | None, high: float | None) -> tuple[float, float]:
    # What lies beyond a bound that was asked for is shown all the same.
    bottom = min(low if low is not None else math.inf, *values, math.inf)
    top = max(high if high is not None else -math.inf, *values, -math.inf)
    if top <= bottom:
        reach = abs(top) * 0.1 or 1.0
        bottom, top = bottom - (0 if low is not None else reach), top + reach
    top += (top - bottom) * (0.04 if high is None or top > high else 0)
    if low is None:
        bottom -= (top - bottom) * 0.04
    return bottom, top


def _places(places: Sequence[float], x: Axis, start: float, end: float) -> svg.Scale:
    low, high = min(places), max(places)
    if low == high:
        low, high = (low / 2, high * 2) if x.log else (low - 1, high + 1)
    if x.log:
        # Air, so that the first and last sizes do not lie on the frame.
        low, high = low / 1.25, high * 1.25
    return svg.Scale(low, high, start, end, x.log)


def _place_ticks(across: svg.Scale, x: Axis, places: list[float], room: float) -> list[float]:
    if x.log:
        # The sizes themselves, from the largest on, as long as there is room.
        kept: list[float] = []
        for place in reversed(places):
            wide = svg.text_width(x.form(place)) + 8
            if not kept or across(kept[-1]) - across(place) >= wide:
                kept.append(place)
        return kept
    widest = max(svg.text_width(x.form(place)) for place in places) + 24
    found = svg.ticks(across.low, across.high, max(2, min(8, int(room / widest))))
    whole = all(float(place).is_integer() for place in places)
    return [mark for mark in found if not whole or float(mark).is_integer()] or places[:1]


def _one_line(series: Series, across: svg.Scale, up: svg.Scale) -> list[str]:
    points = [(across(at), up(value)) if value is not None else None for at, value in series.points]
    out = [
        svg.line(across(at), up(low), across(at), up(high), f"whisker {series.tone}")
        for at, low, high in series.spans
    ]
    out.append(svg.path(points, f"{series.style} {series.tone}"))
    lone = sum(point is not None for point in points) == 1
    if series.style == "dots" or lone:
        out += [svg.dot(*point, f"dot {series.tone}") for point in points if point is not None]
    return out


def _rules(
    rules: Sequence[Rule],
    across: svg.Scale,
    up: svg.Scale,
    left: float,
    right: float,
    top: float,
) -> list[str]:
    level = [rule for rule in rules if rule.axis == "y"]
    # The leftmost is named lowest, so that no line runs through another's name.
    upright = sorted((rule for rule in rules if rule.axis == "x"), key=lambda rule: rule.at)
    above = top - 6 - (16 if level and upright else 0)
    lines, names = [], []
    for rule in level:
        lines.append(svg.line(left, up(rule.at), right, up(rule.at), rule.style))
        names.append(svg.text(left + 6, up(rule.at) - 5, rule.name, f"{rule.style}-name halo"))
    for place, rule in enumerate(upright):
        x, y = across(rule.at), above - 16 * place
        lines.append(svg.line(x, y + 3, x, up.start, rule.style))
        anchor, at = ("end", x) if x - svg.text_width(rule.name) > 0 else ("start", 0)
        names.append(svg.text(at, y, rule.name, f"{rule.style}-name halo", anchor))
    return [*lines, *names]


def _end_names(
    series: Sequence[Series],
    across: svg.Scale,
    up: svg.Scale,
    width: float,
    top: float,
    bottom: float,
) -> list[str]:
    """Write each line's name at its end, pushed apart where they would lie on each other."""
    ends = []
    for each in series:
        last = next((p for p in reversed(each.points) if p[1] is not None), None)
        if last is not None and last[1] is not None:
            ends.append((up(last[1]), across(last[0]), each))
    ends.sort(key=lambda end: end[0])
    places = apart([end[0] + 4.5 for end in ends], 15, top + 8, bottom)
    return [
        svg.text(x + 8, y, svg.shorten(each.name, width - x - 10), f"name {each.tone}")
        for y, (_, x, each) in zip(places, ends, strict=True)
    ]


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places that are in order as little as it takes to lie a gap apart.

    Args:
      places: In rising order.
      gap: Least distance.
      low: None lies below, as far as there is room.
      high: None lies above, as far as there is room.

    Returns:
      The places.
    """
    moved = [max(low, min(each, high)) for each in places]
    for index in range(1, len(moved)):
        moved[index] = max(moved[index], moved[index - 1] + gap)
    if moved and moved[-1] > high:
        moved[-1] = high
        for index in range(len(moved) - 2, -1, -1):
            moved[index] = min(moved[index], moved[index + 1] - gap)
    return moved


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a bar.

    Attributes:
      name: What it is of.
      value: How much.
      tone: Class of its fill.
    """

    name: str
    value: float
    tone: str


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar.

    Attributes:
      name: Before it.
      segments: From its beginning.
      said: At its end.
      span: Interval at its end, none if there is none.
      over: Whether it is beyond the limit.
    """

    name: str
    segments: tuple[Segment, ...]
    said: str
    span: tuple[float, float] | None = None
    over: bool = False


def bars(
    rows: Sequence[Bar],
    x: Axis,
    *,
    label: str,
    width: float,
    limit: Rule | None = None,
) -> str:
    """Draw level bars, stacked of parts, and a limit across them.

    Args:
      rows: The bars.
      x: Their axis, from 0.
      label: What a person who cannot see it should know.
      width: Of the drawing; below 500 the names stand over the bars.
      limit: What no bar should cross.

    Returns:
      SVG.
    """
    above = width < 500
    thick, step = 24.0, 58.0 if above else 40.0
    widest = max((svg.text_width(row.name) for row in rows), default=0) + 12
    left = 1.0 if above else min(widest, width * 0.3)
    totals = [sum(part.value for part in row.segments) for row in rows]
    ends = [max(total, *(row.span or (0,))) for total, row in zip(totals, rows, strict=True)]
    high = max([*ends, limit.at if limit else 0, 1e-12])
    said = max((svg.text_width(row.said) for row in rows), default=0)
    right = 8.0 if above else min(said + 14, width * 0.25)
    top = 30.0 if limit else 8.0
    bottom = top + len(rows) * step
    across = svg.Scale(0, high * 1.02, left, width - right)
    marks = svg.ticks(0, high, 6 if not above else 4)
    out = []
    for mark in marks:
        out.append(svg.line(across(mark), top - 4, across(mark), bottom, "grid"))
        anchor = "start" if above and mark == 0 else "middle"
        out.append(svg.text(across(mark), bottom + 17, x.form(mark), "muted", anchor))
    out.append(svg.text(width - 2, bottom + 36, x.title, "muted", "end"))
    words = []
    for place, (row, total) in enumerate(zip(rows, totals, strict=True)):
        y = top + place * step + (24 if above else 8)
        if above:
            name = svg.shorten(row.name, width - svg.text_width(row.said) - 16)
            out.append(svg.text(left, y - 6, name))
            words.append(svg.text(width - 2, y - 6, row.said, _said(row), "end"))
        else:
            out.append(svg.text(left - 10, y + 17, svg.shorten(row.name, left - 10), "ink", "end"))
        start = 0.0
        for part in row.segments:
            wide = across(start + part.value) - across(start)
            title = f"{row.name}: {part.name} {x.form(part.value)} {x.title}"
            out.append(svg.rect(across(start), y, wide, thick, f"part {part.tone}", title))
            start += part.value
        if row.span is not None:
            low, reach = across(row.span[0]), across(row.span[1])
            out.append(svg.line(low, y + thick / 2, reach, y + thick / 2, "whisker ink-line"))
        if not above:
            end = across(max(total, *(row.span or (0,)))) + 7
            wall = across(limit.at) if limit else 0
            if end <= wall + 4 and end + svg.text_width(row.said) > wall - 4:
                end = wall + 7  # the words would lie on the line
            words.append(svg.text(end, y + 17, row.said, _said(row)))
    if limit is not None:
        at = across(limit.at)
        out.append(svg.line(at, top - 10, at, top if above else bottom, limit.style))
        if above:  # beside the bars alone, for words stand over them
            ends = [top + place * step + 24 for place in range(len(rows))]
            out += [svg.line(at, y - 4, at, y + thick + 4, limit.style) for y in ends]
        out.append(svg.text(at, top - 15, limit.name, f"{limit.style}-name", "end"))
    return svg.drawing(width, bottom + 42, label, [*out, *words])


def _said(row: Bar) -> str:
    return "limit-name halo" if row.over else "ink halo"


@dataclasses.dataclass(frozen=True)
class Mark:
    """An estimate with its interval.

    Attributes:
      value: The estimate.
      low: Where its interval begins.
      high: Where it ends.
      said: Written beside it.
      tone: Class of its colour.
      hollow: Whether its dot is open.
    """

    value: float
    low: float
    high: float
    said: str
    tone: str
    hollow: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """Estimates of one thing, one under the other.

    Attributes:
      name: Of the thing.
      marks: The estimates.
    """

    name: str
    marks: tuple[Mark, ...]


def intervals(
    rows: Sequence[Row], x: Axis, *, label: str, width: float, rules: Sequence[Rule] = ()
) -> str:
    """Draw estimates as dots with whiskers, level.

    Args:
      rows: The things.
      x: The axis.
      label: What a person who cannot see it should know.
      width: Of the drawing; below 500 the names stand over the marks.
      rules: Upright lines to hold them against.

    Returns:
      SVG.
    """
    above = width < 500
    step, head = 24.0, 22.0 if above else 0.0
    names = max((svg.text_width(row.name) for row in rows), default=0) + 14
    left = 8.0 if above else min(names, width * 0.3)
    right = 26.0
    ends = [end for row in rows for mark in row.marks for end in (mark.low, mark.high, mark.value)]
    ends += [rule.at for rule in rules]
    low, high = _range(ends, x.low, x.high)
    across = svg.Scale(low, high, left, width - right)
    top = 30.0 if rules else 6.0
    bottom = top + sum(head + 12 + step * len(row.marks) for row in rows)
    out = []
    for mark in svg.ticks(low, high, 5 if not above else 3):
        out.append(svg.line(across(mark), top - 4, across(mark), bottom, "grid"))
        anchor = "middle" if across(mark) > 20 else "start"
        out.append(svg.text(across(mark), bottom + 17, x.form(mark), "muted", anchor))
    out.append(svg.text(width - 2, bottom + 36, x.title, "muted", "end"))
    for place, rule in enumerate(rules):
        at = across(rule.at)
        out.append(svg.line(at, top - 8, at, bottom, rule.style))
        # The first to the left of its line, the next to the right: they lie close.
        anchor = "end" if place % 2 == 0 and at - svg.text_width(rule.name) > 0 else "start"
        out.append(svg.text(at, top - 13, rule.name, f"{rule.style}-name", anchor))
    y = top
    for row in rows:
        if above:
            out.append(svg.text(0, y + 17, svg.shorten(row.name, width), "ink halo"))
        y += head + 6
        for index, each in enumerate(row.marks):
            middle = y + step / 2
            if index == 0 and not above:
                name = svg.shorten(row.name, left - 12)
                out.append(svg.text(left - 12, middle + 4.5, name, "ink", "end"))
            out.append(
                svg.line(
                    across(each.low), middle, across(each.high), middle, f"whisker {each.tone}"
                )
            )
            shape = f"{'hollow' if each.hollow else 'dot'} {each.tone}"
            out.append(svg.dot(across(each.value), middle, shape, each.said, 5))
            end, begin, wide = (
                across(each.high) + 9,
                across(each.low) - 9,
                svg.text_width(each.said),
            )
            # Behind the mark, or before it where there is more room.
            behind = end + wide <= width or width - end >= begin - left
            words = svg.shorten(each.said, width - end if behind else begin - left)
            place = (end, "start") if behind else (begin, "end")
            out.append(svg.text(place[0], middle + 4.5, words, "ink halo", place[1]))
            y += step
        y += 6
    return svg.drawing(width, bottom + 42, label, out)


@dataclasses.dataclass(frozen=True)
class Tile:
    """One of many that are counted.

    Attributes:
      status: Class of its look.
      title: Words that a pointer brings up.
    """

    status: str
    title: str


def tiles(groups: Sequence[tuple[str, Sequence[Tile]]], *, label: str, width: float) -> str:
    """Draw a square for each of many, by group.

    A cross marks what must not be overlooked, a bar what is known, so that no
    meaning hangs on colour alone.

    Args:
      groups: Names, and what is in each.
      label: What a person who cannot see it should know.
      width: Of the drawing.

    Returns:
      SVG.
    """
    side, gap = 18.0, 5.0
    columns = max(1, int(width // 300))
    each_width = width / columns
    left = min(max((svg.text_width(name) for name, _ in groups), default=0) + 12, each_width * 0.5)
    across = max(1, int((each_width - left - 8) // (side + gap)))
    heights = [math.ceil(len(group) / across) * (side + gap) + 7 for _, group in groups]
    share = math.ceil(len(groups) / columns)
    out, tallest = [], 0.0
    for column in range(columns):
        y = 2.0
        for index in range(column * share, min((column + 1) * share, len(groups))):
            name, group = groups[index]
            begin = column * each_width
            words = svg.shorten(name, left - 10)
            out.append(svg.text(begin + left - 10, y + 14, words, "ink", "end"))
            for place, tile in enumerate(group):
                x = begin + left + place % across * (side + gap)
                top = y + place // across * (side + gap)
                out.append(svg.rect(x, top, side, side, f"tile {tile.status}", tile.title))
                out += _sign(tile.status, x, top, side)
            y += heights[index]
        tallest = max(tallest, y)
    return svg.drawing(width, tallest, label, out)


def _sign(status: str, x: float, y: float, side: float) -> list[str]:
    near, far = side * 0.28, side * 0.72
    if status in ("fail", "error"):
        return [
            svg.line(x + near, y + near, x + far, y + far, "sign"),
            svg.line(x + near, y + far, x + far, y + near, "sign"),
        ]
    if status == "known-defect":
        return [svg.line(x + near, y + side / 2, x + far, y + side / 2, "sign")]
    return []
