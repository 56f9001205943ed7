"""The page: what its parts are, and how they become one file."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import jinja2

# How a figure came to be.
Basis = Literal["measured", "compiled", "bound", "predicted"]
BASES: dict[Basis, str] = {
    "measured": "it ran, on the device that is named",
    "compiled": "the compiler's figure; nothing ran",
    "bound": "by arithmetic from published rates: it cannot be better, and nothing ran",
    "predicted": "read off a line through compiled sizes; neither compiled nor run",
}
# Of a verdict, gravest first.
Gravity = Literal["no", "open", "yes", "none"]
GRAVITIES: tuple[Gravity, ...] = ("no", "open", "yes", "none")

# Widths of drawings on a desk, and of the same on a phone: across the page, two
# and three side by side; of the last, two side by side on a phone.
WIDE, HALF, PANEL = 1040.0, 504.0, 330.0
NARROW = {WIDE: 350.0, HALF: 350.0, PANEL: 168.0}
_PLACES = {WIDE: "across", HALF: "half", PANEL: "third"}


def in_order(found: Collection[Basis]) -> tuple[Basis, ...]:
    """Return each of the labels once, in the order in which the page explains them."""
    return tuple(sorted(set(found), key=list(BASES).index))


@dataclasses.dataclass(frozen=True)
class Picture:
    """A chart as SVG for a desk and for a phone, its title, and how much of a page it takes."""

    wide: str
    narrow: str
    title: str = ""
    place: str = "across"


def picture(draw: Callable[[float], str], wide: float, title: str = "") -> Picture:
    """Draw a chart at both widths.

    Args:
      draw: Returns SVG of a width.
      wide: The width on a desk: `WIDE`, `HALF` or `PANEL`.
      title: Over it, if it is one of several.

    Returns:
      Both.
    """
    return Picture(draw(wide), draw(NARROW[wide]), title, _PLACES[wide])


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under a head.

    Attributes:
      head: Names of the columns.
      rows: Cells as text.
      basis: How the figures came to be; empty where there are only words.
      caption: What it is of.
      figures: Columns that hold figures, set to the right.
      folded: Whether it is shown only when asked for.
      code: Columns that hold names from code.
      tones: Of each row, a class; empty if rows look alike.
    """

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    basis: tuple[Basis, ...]
    caption: str
    figures: Collection[int] = ()
    folded: bool = False
    code: Collection[int] = ()
    tones: Sequence[str] = ()
    kind: str = "table"


@dataclasses.dataclass(frozen=True)
class Tile:
    """A small square for one of many: its status, and words that a pointer brings up."""

    status: str
    title: str


@dataclasses.dataclass(frozen=True)
class Figure:
    """A chart, or several of a kind, with what it says.

    Attributes:
      title: What is seen.
      basis: How what is seen came to be.
      pictures: The charts.
      caption: How to read it, and what to make of it.
      legend: Names of colours, and what they are of.
      table: The same figures to read, None if the drawing says them all.
      half: Whether two stand side by side on a desk.
      tiles: Squares by group, instead of charts.
    """

    title: str
    basis: tuple[Basis, ...]
    pictures: Sequence[Picture] = ()
    caption: str = ""
    legend: Sequence[tuple[str, str]] = ()
    table: Table | None = None
    half: bool = False
    tiles: Sequence[tuple[str, Sequence[Tile]]] = ()
    kind: str = "figure"


@dataclasses.dataclass(frozen=True)
class Note:
    """A sentence on its own.

    Attributes:
      text: The sentence.
      command: What would make what is missing.
      missing: Whether something is not there to be shown.
    """

    text: str
    command: str = ""
    missing: bool = True
    kind: str = "note"


Part = Table | Figure | Note


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, its anchor, and what stands under it."""

    id: str
    title: str
    parts: Sequence[Part]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one result says, in a word and a sentence.

    Attributes:
      gravity: How grave it is.
      word: The word.
      text: The sentence.
      basis: How what it rests on came to be.
      source: Name of the result.
    """

    gravity: Gravity
    word: str
    text: str
    basis: tuple[Basis, ...]
    source: str = ""


def render(headline: str, answers: Sequence[Answer], sections: Sequence[Section]) -> str:
    """Make the page.

    Args:
      headline: The whole in a sentence.
      answers: What each result says; the gravest is shown first.
      sections: What stands under them.

    Returns:
      HTML that needs no other file.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    worst_first = sorted(answers, key=lambda answer: GRAVITIES.index(answer.gravity))
    text = environment.get_template("page.html").render(
        headline=headline, answers=worst_first, sections=sections, bases=BASES
    )
    # JSON can hold halves of characters, which no encoding has.
    return text.encode("utf-8", "replace").decode("utf-8")
