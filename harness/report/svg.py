"""Shapes, scales and units: what the charts are put together from.

Colours are the style sheet's: a shape names its class, so that light and dark
are decided where the page is shown.
"""

import dataclasses
import html
import math
from collections.abc import Callable, Sequence

# Width of a character over the font's size, on the wide side for sans-serif digits.
_CHARACTER = 0.58
FONT = 13.0


def escape(said: str) -> str:
    """Make a string safe as text and as a quoted attribute."""
    return html.escape(said, quote=True)


def text_width(said: str, size: float = FONT) -> float:
    """Estimate the width of a line of text, in the units of the drawing."""
    return len(said) * _CHARACTER * size


def shorten(said: str, width: float, size: float = FONT) -> str:
    """Cut a line to a width, with an ellipsis if something is cut."""
    fits = max(2, int(width / (_CHARACTER * size)))
    return said if len(said) <= fits else said[: fits - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def text(x: float, y: float, said: str, classes: str = "ink", anchor: str = "start") -> str:
    """Write a line of text, its baseline at `y`."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}" text-anchor="{anchor}">'
        f"{escape(said)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    """Draw a straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"/>'


def rect(
    x: float, y: float, width: float, height: float, classes: str, title: str | None = None
) -> str:
    """Draw a rectangle, with words that a pointer brings up."""
    shape = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    if title is None:
        return f'{shape} class="{classes}"/>'
    return f'{shape} class="{classes}"><title>{escape(title)}</title></rect>'


def dot(x: float, y: float, classes: str, title: str | None = None, radius: float = 4) -> str:
    """Draw a dot, with words that a pointer brings up."""
    shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{classes}"'
    return f"{shape}/>" if title is None else f"{shape}><title>{escape(title)}</title></circle>"


def path(points: Sequence[tuple[float, float] | None], classes: str) -> str:
    """Draw a line through points, broken where one is none."""
    said, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
        else:
            said.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
            pen = "L"
    return f'<path d="{" ".join(said)}" class="{classes}"/>' if said else ""


def drawing(width: float, height: float, label: str, shapes: Sequence[str]) -> str:
    """Put shapes together to a picture that scales, with words for who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">'
        f"{''.join(shapes)}</svg>"
    )


@dataclasses.dataclass(frozen=True)
class Scale:
    """Where values lie in a drawing.

    Attributes:
      low: Value at `start`.
      high: Value at `end`; not `low`.
      start: Place of the one.
      end: Place of the other.
      log: Whether equal ratios are equally far apart; then both are positive.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers within a range, at most about `most`, equally far apart."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(each * size for each in (1, 2, 2.5, 5, 10) if each * size >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [each * step for each in range(first, last + 1)]


def thin(values: Sequence[float], most: int) -> list[float]:
    """Leave out values evenly until at most about `most` are left, the last one kept."""
    every = max(1, math.ceil(len(values) / most))
    return sorted(set(list(values)[::-1][::every]))


def number(value: float) -> str:
    """Write a figure with three digits that count, thousands set apart."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e15 or size < 1e-4:
        return f"{value:.2e}"
    if size >= 100:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(size))
    said = f"{value:.{max(0, digits)}f}"
    return said.rstrip("0").rstrip(".") if "." in said else said


def rate(value: float) -> str:
    """Write a figure for an axis: k, M, G instead of zeros."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{number(value / size)}{unit}"
    return number(value)


def percent(value: float) -> str:
    """Write a share of 1 as per cent, one digit behind the point where it is not whole."""
    return f"{value * 100:.1f}".removesuffix(".0") + "%"


def seconds(value: float) -> str:
    """Write a time in the unit in which it is short."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "\N{MICRO SIGN}s")):
        if value >= size or size == 1e-6:
            return f"{number(value / size)} {unit}"
    raise AssertionError  # the last size takes all


_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


def bytes_unit(largest: float) -> tuple[int, str]:
    """Return the unit in which amounts up to the largest are short: its bytes and name."""
    return next(((size, name) for size, name in _BYTES if largest >= size), (1, "B"))


def size(value: float) -> str:
    """Write bytes in the unit in which they are short."""
    unit, name = bytes_unit(value)
    return f"{number(value / unit) if name != 'GiB' else f'{value / unit:.2f}'} {name}"


Format = Callable[[float], str]
