"""Is it right: the properties, and the known issues."""

from collections import Counter

from harness.artifacts.check import Check, Defect, Property
from harness.report import forms
from harness.report.page import Code, Figure, Note, Part, Table, Tile
from harness.report.reading import Source

# Gravest first; what one and what several are called on the page, and their colour.
_STATUS = {
    "fail": ("fails", "fail", "fail"),
    "error": ("could not be checked", "could not be checked", "fail"),
    "known-defect": ("breaks as known", "break as known", "known"),
    "pass": ("holds", "hold", "pass"),
}
_SHOWN, _LONGEST = 3, 300


def parts(source: Source, check: Check) -> list[Part]:
    """Show what a check found."""
    title = f"{source.name}: Tunix {check.version}, {check.mode}"
    return [*_properties(source, check, title), *_known_issues(source, check, title)]


def counted(check: Check) -> dict[str, str]:
    """Return how many properties are of each status that occurs, in words, gravest first."""
    count = Counter(each.status for each in check.properties)
    return {
        status: f"{count[status]} {words[count[status] != 1]}"
        for status, words in _STATUS.items()
        if count[status]
    }


def _properties(source: Source, check: Check, title: str) -> list[Part]:
    if not check.properties:
        return [Note(f"{title}: no property was checked.")]
    found = counted(check)
    areas: dict[str, list[Tile]] = {each.area: [] for each in check.properties}
    for status in found:
        for each in check.properties:
            if each.status == status:
                text = f"{each.id}: {_STATUS[status][0]}. {each.statement}"
                areas[each.area].append(Tile(status, text))
    figure = Figure(
        f"Properties, {title}",
        ("measured",),
        "A square for each property: what Tunix did, compared with an independent calculation or "
        "with itself under a symmetry.",
        tiles=list(areas.items()),
        legend=[(_STATUS[status][2], words) for status, words in found.items()],
    )
    tables = []
    for status, words in found.items():
        rows = [_row(each) for each in check.properties if each.status == status]
        folded, tones = status in ("pass", "known-defect"), [status] * len(rows)
        tables.append(Table(f"{words} ({source.name})", ("measured",), rows, folded, tones))
    return [figure, *tables]


def _row(each: Property) -> dict[str, str]:
    seen = [forms.shorten(text, _LONGEST) for text in each.messages[:_SHOWN]]
    if len(each.messages) > _SHOWN:
        seen.append(f"and {len(each.messages) - _SHOWN} more")
    return {
        "property": Code(each.id),
        "area": each.area,
        "what must hold": each.statement,
        "tolerance": each.tolerance,
        "what was seen": "; ".join(seen) or "nothing amiss",
    }


def _known_issues(source: Source, check: Check, title: str) -> list[Part]:
    if not check.defects:
        return [Note(f"{title}: no known issue is listed.")]
    groups = {
        "in this Tunix, not fixed": [d for d in check.defects if d.present and not d.fixed],
        "in this Tunix, fixed": [d for d in check.defects if d.present and d.fixed],
        "not checked": [d for d in check.defects if d.present is None],
        "not in this Tunix": [d for d in check.defects if d.present is False],
    }
    return [
        Table(
            f"Known issues: {len(found)} {words} ({source.name})",
            ("measured",) if found[0].present is not None else (),
            [_issue(each) for each in found],
            folded=True,
        )
        for words, found in groups.items()
        if found
    ]


def _issue(each: Defect) -> dict[str, str]:
    shown = ", ".join(each.shown_by) or "its own script"
    if each.reproduction:
        shown += f": {forms.shorten(each.reproduction, _LONGEST)}"
    return {
        "known issue": Code(each.id),
        "what": each.title,
        "where": Code(each.where or forms.NOT_REPORTED),
        "releases": ", ".join(each.releases) or forms.NOT_REPORTED,
        "shown by": shown,
    }
