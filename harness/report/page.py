"""The page: what its parts are, and how they become one file."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, Literal

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


def in_order(found: Collection[Basis]) -> tuple[Basis, ...]:
    """Return each of the labels once, in the order in which the page explains them."""
    return tuple(each for each in BASES if each in found)


class Code(str):
    """A cell of a table that is a name from code."""

    kind = "code"


class Number(str):
    """A cell of a table that is a figure, set to the right."""

    kind = "figures"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      caption: What it is of.
      basis: How the figures came to be; empty where there are only words.
      rows: Cells by the name of their column, which is the same in all; a cell that is more
        than text is a `Code` or a `Number`.
      folded: Whether it is shown only when asked for.
      tones: Of each row, a class; empty if rows look alike.
    """

    caption: str
    basis: Sequence[Basis]
    rows: Sequence[dict[str, str]]
    folded: bool = False
    tones: Sequence[str] = ()
    kind: str = "table"


@dataclasses.dataclass(frozen=True)
class Tile:
    """A small square for one of many: its status, and words that a pointer brings up."""

    status: str
    title: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """A chart as SVG for a desk and for a phone, its title, and how much of a page it takes."""

    wide: str
    narrow: str
    title: str
    width: str


@dataclasses.dataclass(frozen=True)
class Figure:
    """A chart, or several of a kind, with what it shows.

    Attributes:
      title: What is seen.
      basis: How what is seen came to be.
      caption: How to read it, and what to make of it.
      pictures: The charts.
      legend: Names of colours, and what they are of.
      table: The same figures to read, None if the drawing holds them all.
      half: Whether two stand side by side on a desk.
      tiles: Squares by group, instead of charts.
    """

    title: str
    basis: Sequence[Basis]
    caption: str
    pictures: Sequence[Picture] = ()
    legend: Sequence[tuple[str, str]] = ()
    table: Table | None = None
    half: bool = False
    tiles: Sequence[tuple[str, Sequence[Tile]]] = ()
    kind: str = "figure"


@dataclasses.dataclass(frozen=True)
class Note:
    """A sentence on its own; `command` makes what is missing, if anything is."""

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
    """What one result comes to: how grave it is, in a word and a sentence, and on which basis."""

    gravity: Gravity
    word: str
    text: str
    basis: tuple[Basis, ...]
    source: str = ""


def render(headline: str, answers: Sequence[Answer], sections: Sequence[Section]) -> str:
    """Make the page.

    Args:
      headline: The whole in a sentence.
      answers: What each result comes to; the gravest is shown first.
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
    shown: dict[str, Any] = {
        "answers": sorted(answers, key=lambda answer: GRAVITIES.index(answer.gravity)),
        "sections": sections,
        "bases": BASES,
    }
    text = environment.get_template("page.html").render(headline=headline, **shown)
    # JSON can hold halves of characters, which no encoding has.
    return text.encode("utf-8", "replace").decode("utf-8")
