"""A matplotlib figure as SVG that can stand in a page.

Colours are names of the style sheet, so that light and dark are decided where
the page is shown: a figure is drawn in stand-in colours, which become CSS
variables. Text stays text, in the page's font. No id is left, so that any
number of drawings can stand in one page.
"""

import io
import re
import warnings
from typing import Any
from xml.etree import ElementTree

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from harness.report import forms

# Width of a character of text, on the wide side, in pixels.
CHARACTER = 7.6
TONES = tuple(f"s{index}" for index in range(6))
_NAMES = (
    *("page", "ink", "muted", "grid", "no", "open", *TONES),
    *(f"k{index}" for index in range(9)),
    *("t0", "t1", "t2"),
)
COLOURS = {name: f"#{index:06x}" for index, name in enumerate(_NAMES, 1)}
_TONE_OF = {colour: name for name, colour in COLOURS.items()}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tunix-ppo-harness",
    "text.parse_math": False,
    "text.color": COLOURS["ink"],
    "font.size": 13,
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelsize": 13,
    "axes.titlesize": 13,
    "axes.titlecolor": COLOURS["muted"],
    "axes.titlelocation": "left",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 1,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "ytick.major.size": 0,
    "xaxis.labellocation": "right",
}
# What of an SVG element is of use in a page.
_ATTRIBUTES = {"path": ("d", "style", "transform"), "text": ("x", "y", "style", "transform")}


def plain(text: str) -> str:
    """Return a text on one line, of characters that XML can hold."""
    return "".join(each if each.isprintable() else " " for each in text)


class Drawing:
    """One pair of axes; make and save it within `matplotlib.rc_context(STYLE)`."""

    def __init__(self, width: float, height: float):
        """Make the axes of a drawing of so many pixels."""
        self.width = width
        self.figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        self.figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)  # type: ignore[union-attr]
        self.axes: Axes = self.figure.add_subplot()
        self._tips: dict[str, str] = {}

    def tip(self, artist: Artist, text: str) -> None:
        """Give a shape words that a pointer brings up."""
        artist.set_gid(f"tip-{len(self._tips)}")
        self._tips[f"tip-{len(self._tips)}"] = plain(text)

    def write(self, text: str, at: tuple[float, float], tone: str = "ink", **how: Any) -> None:
        """Write a text beside a point.

        Args:
          text: One line.
          at: The point, in the coordinates of `xycoords`, the data's if not given.
          tone: Name of its colour.
          how: As for `Axes.annotate`; `xytext` is an offset in pixels.
        """
        how = {"textcoords": "offset points", "xytext": (0, 0), "annotation_clip": False, **how}
        # What a file names can be of any length.
        text = forms.shorten(plain(text), max(16, int(0.55 * self.width / CHARACTER)))
        self.axes.annotate(text, at, color=COLOURS[tone], **how)

    def svg(self, label: str) -> str:
        """Return the drawing as an `<svg>` element that scales.

        Args:
          label: What a person who cannot see it should know.
        """
        out = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():  # a page has fonts for what matplotlib's has no glyph
            warnings.simplefilter("ignore", UserWarning)
            FigureCanvasSVG(self.figure).print_svg(out, metadata=metadata)
        text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", out.getvalue()).replace("xlink:", "")
        root = ElementTree.fromstring(text)
        shapes = {f"#{each.get('id')}": each.get("d", "") for each in root.iter("path")}
        for parent in list(root.iter()):
            for child in list(parent):
                if child.tag in ("defs", "metadata", "style"):
                    parent.remove(child)
        for each in list(root.iter()):
            self._clean(each, shapes)
        box = f"0 0 {self.width:g} {self.figure.bbox.height:g}"
        root.attrib = {"viewBox": box, "role": "img", "aria-label": plain(label)}
        return ElementTree.tostring(root, encoding="unicode")

    def _clean(self, element: ElementTree.Element, shapes: dict[str, str]) -> None:
        """Leave of an element what a page has a use for; put a shape where it is referred to."""
        if element.tag == "use":
            element.tag = "path"
            element.set("d", shapes[element.get("href", "")])
            element.set("transform", f"translate({element.get('x')} {element.get('y')})")
        tip = self._tips.get(element.get("id", ""))
        names = _ATTRIBUTES.get(element.tag, ("style", "transform"))
        element.attrib = {
            name: _short(element.get(name, "")) for name in names if element.get(name)
        }
        element.tail = None
        element.text = element.text if element.tag in ("text", "title") else None
        if tip:
            title = ElementTree.Element("title")
            title.text = tip
            element.insert(0, title)


def _short(value: str) -> str:
    """Return an attribute with the page's font and colours, and numbers to a tenth of a pixel."""
    value = re.sub(r"font-family:[^;]*(;|$)", "", " ".join(value.split()))
    value = re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{_TONE_OF.get(m[0], 'ink')})", value)
    return re.sub(r"-?\d+\.\d{2,}", lambda m: f"{float(m[0]):.1f}", value)
