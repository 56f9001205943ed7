"""Is it right: the properties, and the known issues."""

from collections import Counter

from harness.artifacts.check import Check, Defect, Property
from harness.report import forms
from harness.report.page import Figure, Note, Part, Table, Tile
from harness.report.reading import Source

# Gravest first; what one and what several are called on the page.
_STATUS = {
    "fail": ("fails", "fail"),
    "error": ("could not be checked", "could not be checked"),
    "known-defect": ("breaks as known", "break as known"),
    "pass": ("holds", "hold"),
}
_TONES = {"fail": "fail", "error": "fail", "known-defect": "known", "pass": "pass"}
_SHOWN, _LONGEST = 3, 300


def parts(source: Source, check: Check) -> list[Part]:
    """Show what a check found."""
    return [*_properties(source, check), *_known_issues(source, check)]


def _title(source: Source, check: Check) -> str:
    return f"{source.name}: Tunix {check.version}, {check.mode}"


def counted(check: Check) -> dict[str, str]:
    """Return how many properties are of each status that occurs, in words, gravest first."""
    count = Counter(each.status for each in check.properties)
    return {
        status: f"{count[status]} {words[count[status] != 1]}"
        for status, words in _STATUS.items()
        if count[status]
    }


def _properties(source: Source, check: Check) -> list[Part]:
    if not check.properties:
        return [Note(f"{_title(source, check)}: no property was checked.")]
    areas: dict[str, list[Tile]] = {}
    for each in sorted(check.properties, key=lambda each: list(_STATUS).index(each.status)):
        title = f"{each.id}: {_STATUS[each.status][0]}. {each.statement}"
        areas.setdefault(each.area, []).append(Tile(each.status, title))
    order = dict.fromkeys(each.area for each in check.properties)
    found = counted(check)
    found_parts: list[Part] = [
        Figure(
            title=f"Properties, {_title(source, check)}",
            basis=("measured",),
            tiles=[(area, areas[area]) for area in order],
            caption="A square for each property: what Tunix did, compared with an independent "
            "calculation or with itself under a symmetry.",
            legend=[(_TONES[status], words) for status, words in found.items()],
        )
    ]
    for status, words in found.items():
        rows = [_row(each) for each in check.properties if each.status == status]
        found_parts.append(
            Table(
                ("property", "area", "what must hold", "tolerance", "what was seen"),
                rows,
                ("measured",),
                f"{words} ({source.name})",
                folded=status in ("pass", "known-defect"),
                code={0},
                tones=[status] * len(rows),
            )
        )
    return found_parts


def _row(each: Property) -> tuple[str, ...]:
    seen = [forms.shorten(text, _LONGEST) for text in each.messages[:_SHOWN]]
    if len(each.messages) > _SHOWN:
        seen.append(f"and {len(each.messages) - _SHOWN} more")
    return each.id, each.area, each.statement, each.tolerance, "; ".join(seen) or "nothing amiss"


def _known_issues(source: Source, check: Check) -> list[Part]:
    if not check.defects:
        return [Note(f"{_title(source, check)}: no known issue is listed.")]
    groups = (
        ("in this Tunix, not fixed", [d for d in check.defects if d.present and not d.fixed]),
        ("in this Tunix, fixed", [d for d in check.defects if d.present and d.fixed]),
        ("not checked", [d for d in check.defects if d.present is None]),
        ("not in this Tunix", [d for d in check.defects if d.present is False]),
    )
    return [
        Table(
            ("known issue", "what", "where", "releases", "shown by"),
            [_issue(each) for each in found],
            ("measured",) if found[0].present is not None else (),
            f"Known issues: {len(found)} {words} ({source.name})",
            folded=True,
            code={0, 2},
        )
        for words, found in groups
        if found
    ]


def _issue(each: Defect) -> tuple[str, ...]:
    shown = ", ".join(each.shown_by) or "its own script"
    if each.reproduction:
        shown += f": {forms.shorten(each.reproduction, _LONGEST)}"
    releases = ", ".join(each.releases) or forms.NOT_REPORTED
    return each.id, each.title, each.where or forms.NOT_REPORTED, releases, shown
