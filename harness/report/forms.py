"""How figures are written: short, in the unit that suits them."""

import math
from collections.abc import Callable

from harness.artifacts.plan import GIB

_BYTES = ((2**40, "TiB"), (GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
NOT_REPORTED = "not reported"


def number(value: float) -> str:
    """Return a figure with three significant digits, thousands separated."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e15 or size < 1e-4:
        return f"{value:.2e}"
    if size >= 100:
        return f"{value:,.0f}"
    text = f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rate(value: float) -> str:
    """Return a figure for an axis: k, M, G instead of zeros."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{number(value / size)}{unit}"
    return number(value)


def percent(value: float) -> str:
    """Return a share of 1 as per cent, with one decimal unless it is whole."""
    return f"{value * 100:.1f}".removesuffix(".0") + "%"


def seconds(value: float) -> str:
    """Return a time in the unit in which it is short."""
    scale, unit = next(
        ((scale, unit) for scale, unit in ((1.0, "s"), (1e-3, "ms")) if value >= scale),
        (1e-6, "\N{MICRO SIGN}s"),
    )
    return f"{number(value / scale)} {unit}"


def bytes_unit(largest: float) -> tuple[int, str]:
    """Return the bytes and the name of the unit in which amounts up to the largest are short."""
    return next(((size, name) for size, name in _BYTES if largest >= size), (1, "B"))


def size(value: float | None) -> str:
    """Return bytes in the unit in which they are short."""
    if value is None:
        return NOT_REPORTED
    unit, name = bytes_unit(value)
    return f"{number(value / unit) if name != 'GiB' else f'{value / unit:.2f}'} {name}"


def known(value: float | None, form: Callable[[float], str]) -> str:
    """Return a figure in a form, or that it was not reported."""
    return NOT_REPORTED if value is None else form(value)


def count(amount: int, noun: str) -> str:
    """Return a number of things."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def shorten(text: str, most: int) -> str:
    """Return a text on one line, cut to a number of characters with an ellipsis."""
    words = " ".join(text.split())
    return words if len(words) <= most else words[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
