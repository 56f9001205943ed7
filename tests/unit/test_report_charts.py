"""The charts of the page, how figures are written, and colours."""

import pathlib
import re
from xml.etree import ElementTree

import pytest

from harness import report
from harness.report import charts, drawing, forms, learning

STYLE = (pathlib.Path(report.__file__).parent / "templates" / "page.css").read_text()
GIB = charts.Axis("GiB")


def drawn(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def bars(width: float, *values: float, limit: float = 10.0, name: str = "a") -> str:
    rows = [
        charts.Bar(name, (charts.Segment("all", value, "k0"),), f"{value} output")
        for value in values
    ]
    rule = charts.Rule(limit, "the limit")
    picture = charts.bars(charts.WIDE, "", rows, GIB, label="some bars", limit=rule)
    return picture.wide if width == charts.WIDE.wide else picture.narrow


def paths(text: str, tone: str) -> list[list[tuple[float, float]]]:
    """Corner of the paths that have a colour."""
    found = []
    for each in drawn(text).iter("path"):
        if f"var(--{tone})" in each.get("style", ""):
            numbers = [float(x) for x in re.findall(r"-?\d+\.?\d*", each.get("d", ""))]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def words(text: str) -> list[str]:
    return [each.text or "" for each in drawn(text).iter("text")]


@pytest.mark.parametrize("width", [1040, 350])
def test_the_limit_is_drawn_at_its_value(width):
    text = bars(width, 10.0)
    (bar,) = paths(text, "k0")
    (rule,) = paths(text, "no")
    # A bar as large as the limit ends on it; drawings are rounded to 0.1.
    assert max(x for x, _ in bar) == pytest.approx(rule[0][0], abs=0.2)
    assert {"the limit", "10.0 output", "a", "GiB"} <= set(words(text))


def test_words_of_a_bar_stand_over_it_and_not_on_the_limit():
    text = bars(1040, 2.0, 9.8)
    heights = {each.text: float(each.get("y", "")) for each in drawn(text).iter("text")}
    for bar, limit, name in zip(paths(text, "k0"), paths(text, "no"), ("2.0", "9.8"), strict=True):
        assert heights[f"{name} output"] < min(y for _, y in (*bar, *limit))


@pytest.mark.parametrize("width", [1040, 350])
def test_a_chart_stays_within_its_width(width):
    text = bars(width, 1.0, 30.0, name="a name that is as long as names of programs are")
    low, _, right, _ = map(float, drawn(text).get("viewBox", "").split())
    assert (low, right) == (0, width)
    corners = [x for path in (*paths(text, "k0"), *paths(text, "no")) for x, _ in path]
    assert all(0 <= x <= width for x in corners)


def lines(points, y=GIB, rules=()):
    series = [charts.Series(points, "s0", "dots")]
    x = charts.Axis("size", log=True)
    return charts.lines(charts.PANEL, "", series, x, y, label="a line", rules=rules).wide


def test_a_value_that_is_none_breaks_the_line():
    text = lines([(1.0, 1.0), (2.0, None), (4.0, 2.0), (8.0, 3.0)])
    line = next(each for each in drawn(text).iter("path") if "fill: none" in each.get("style", "")
                and "var(--s0)" in each.get("style", ""))  # fmt: skip
    assert line.get("d", "").count("M") == 2
    assert len([each for each in drawn(text).iter("path") if each.get("transform")]) >= 3


@pytest.mark.parametrize("points", [[(4.0, 0.0)], [(4.0, 1e18)], [(1.0, -3.0), (2.0, -3.0)]])
def test_extreme_values_are_drawn(points):
    assert "nan" not in lines(points)
    assert "size" in words(lines(points, charts.Axis("GiB", low=0)))


def test_limits_are_named_on_both_axes():
    rules = (charts.Rule(9.0, "HBM"), charts.Rule(3.0, "fits 3", upright=True))
    assert {"HBM", "fits 3"} <= set(words(lines([(1.0, 1.0), (4.0, 12.0)], rules=rules)))


def test_limits_far_from_the_only_size_lie_within_the_chart():
    rules = [charts.Rule(at, f"fits {at}", upright=True) for at in (101.0, 252.0)]
    text = lines([(4.0, 1.0)], rules=rules)
    named = {each.text: float(each.get("x", "")) for each in drawn(text).iter("text")}
    ends = [path[0][0] for path in paths(text, "no")]
    assert all(0 <= x <= 330 for x in (*ends, named["fits 101.0"], named["fits 252.0"]))


def test_an_interval_shows_each_estimate_beside_its_mark():
    marks = (charts.Mark(0.3, 0.2, 0.4, "30% $x$ <b>", "s0", hollow=True),)
    rows = [charts.Row("run", (*marks, charts.Mark(0.9, 0.8, 1.0, "90% after", "s0")))]
    axis = charts.Axis("accuracy", forms.percent, low=0, high=1)
    picture = charts.intervals(charts.WIDE, "", rows, axis, label="two")
    for text in (picture.wide, picture.narrow):
        assert {"run", "30% $x$ <b>", "90% after", "0%", "100%"} <= set(words(text))


def test_a_drawing_refers_to_nothing_and_is_the_same_each_time():
    text = bars(1040, 3.0, 12.0)
    assert text == bars(1040, 3.0, 12.0)
    assert not re.search(r"https?:|url\(|\bid=|href|<use|<defs|#[0-9a-f]{6}", text)
    root = drawn(text)
    assert (root.get("role"), root.get("aria-label")) == (
        "img",
        "some bars: a 3.0 output; a 12.0 output; the limit",
    )
    assert any("a: all 12 GiB" in (each.text or "") for each in root.iter("title"))


@pytest.mark.parametrize("bad", ["\ud800", "\x00", "a\nb", "$\\frac{"])
def test_any_name_can_be_drawn(bad):
    assert words(bars(1040, 1.0, name=bad))


def test_every_colour_of_a_chart_is_in_the_style():
    defined = set(re.findall(r"--([\w-]+):", STYLE))
    assert set(drawing.COLOURS) <= defined


@pytest.mark.parametrize(
    ("write", "value", "output"),
    [
        (forms.number, 1234567, "1,234,567"),
        (forms.number, 0.0456, "0.0456"),
        (forms.number, 0, "0"),
        (forms.number, 100, "100"),
        (forms.rate, 40260, "40.3k"),
        (forms.percent, 0.8125, "81.2%"),
        (forms.percent, 1, "100%"),
        (forms.seconds, 0.00794, "7.94 ms"),
        (forms.seconds, 0, "0 \N{MICRO SIGN}s"),
        (forms.size, 2**30, "1.00 GiB"),
        (forms.size, 512, "512 B"),
    ],
)
def test_figures_are_written_short(write, value, output):
    assert write(value) == output


def test_a_rolling_mean_passes_over_what_is_not_known():
    points = [(1.0, 2.0), (2.0, None), (3.0, 4.0), (4.0, None), (5.0, None)]
    assert [value for _, value in learning.rolling(points, 2)] == [2.0, 2.0, 4.0, 4.0, None]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as the Web Content Accessibility Guidelines 2.2 define it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(scheme):
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.S)
    assert len(blocks) == 2
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[scheme]))
    pairs = [(name, "page") for name in ("ink", "muted", "link", "no", *drawing.TONES)]
    pairs += [(name, f"{name}-back") for name in ("no", "open", "yes", "none")]
    pairs += [("ink", "open-back")]
    # 4.5 is what level AA asks of text of this size.
    assert {pair for pair in pairs if contrast(*(colours[name] for name in pair)) < 4.5} == set()
