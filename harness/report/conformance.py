"""Is it right: the properties, and the known issues."""

from collections import Counter

from harness.report import charts, kinds
from harness.report.page import WIDE, Figure, Note, Part, Section, Table, picture
from harness.report.reading import Source, Sources

_COMMAND = "python -m harness check --json check.json"
# Gravest first; what one and what several are called on the page.
_STATUS = {
    "fail": ("fails", "fail"),
    "error": ("could not be looked at", "could not be looked at"),
    "known-defect": ("is broken by known issues alone", "are broken by known issues alone"),
    "pass": ("holds", "hold"),
}
_SHOWN, _LONGEST = 3, 300


def section(sources: Sources) -> Section:
    """Show what the checks found."""
    checks = sources.of(kinds.Check)
    if not checks:
        missing = Note("No check was given: nothing is known of the properties.", _COMMAND, True)
        return Section("properties", "Is it right?", (missing,))
    parts: list[Part] = []
    for source, check in checks:
        parts += _properties(source, check)
        parts += _known_issues(source, check)
    return Section("properties", "Is it right?", tuple(parts))


def _title(source: Source, check: kinds.Check) -> str:
    return f"{source.name}: Tunix {check.version}, {check.mode}"


def counted(check: kinds.Check) -> dict[str, str]:
    """Return how many properties are of each status that occurs, in words, gravest first."""
    count = Counter(each.status for each in check.properties)
    return {
        status: f"{count[status]} {words[count[status] != 1]}"
        for status, words in _STATUS.items()
        if count[status]
    }


def _properties(source: Source, check: kinds.Check) -> list[Part]:
    if not check.properties:
        return [Note(f"{_title(source, check)}: no property was looked at.", missing=True)]
    order = list(_STATUS)
    areas: dict[str, list[kinds.Property]] = {}
    for each in check.properties:
        areas.setdefault(each.area, []).append(each)
    groups = [
        (
            area,
            [
                charts.Tile(each.status, f"{each.id}: {_STATUS[each.status][0]}. {each.statement}")
                for each in sorted(held, key=lambda each: order.index(each.status))
            ],
        )
        for area, held in areas.items()
    ]
    found = counted(check)
    said = ", ".join(found.values())
    parts: list[Part] = [
        Figure(
            title=f"Properties, {_title(source, check)}",
            basis=("measured",),
            pictures=(
                picture(
                    lambda w: charts.tiles(groups, label=f"Properties by area: {said}", width=w),
                    WIDE,
                ),
            ),
            caption="A square for each property: what Tunix did, held to an independent "
            "calculation or to itself under a symmetry.",
            legend=tuple((f"tile {status}", words) for status, words in found.items()),
        )
    ]
    for status, words in found.items():
        rows = tuple(_row(each) for each in check.properties if each.status == status)
        parts.append(
            Table(
                head=("property", "area", "what must hold", "tolerance", "what was seen"),
                rows=rows,
                basis=("measured",),
                caption=f"{words} ({source.name})",
                folded=status in ("pass", "known-defect"),
                code=frozenset({0}),
                tones=(status,) * len(rows),
            )
        )
    return parts


def _row(each: kinds.Property) -> tuple[str, ...]:
    seen = [_cut(said) for said in each.said[:_SHOWN]]
    if len(each.said) > _SHOWN:
        seen.append(f"and {len(each.said) - _SHOWN} more")
    return (each.id, each.area, each.statement, each.tolerance, "; ".join(seen) or "nothing amiss")


def _cut(said: str) -> str:
    words = " ".join(said.split())
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _known_issues(source: Source, check: kinds.Check) -> list[Part]:
    if not check.defects:
        return [Note(f"{_title(source, check)}: no known issues.", missing=True)]
    groups = (
        ("in this Tunix, not fixed", [d for d in check.defects if d.present and not d.fixed]),
        ("in this Tunix, fixed", [d for d in check.defects if d.present and d.fixed]),
        ("not looked at", [d for d in check.defects if d.present is None]),
        ("not in this Tunix", [d for d in check.defects if d.present is False]),
    )
    return [
        Table(
            head=("defect", "what", "where", "releases", "shown by"),
            rows=tuple(_defect(each) for each in found),
            basis=("measured",) if found[0].present is not None else (),
            caption=f"Known issues: {len(found)} {word} ({source.name})",
            folded=True,
            code=frozenset({0, 2}),
        )
        for word, found in groups
        if found
    ]


def _defect(each: kinds.Defect) -> tuple[str, ...]:
    shown = ", ".join(each.shown_by) or "its own script"
    if each.reproduction:
        shown += f": {_cut(each.reproduction)}"
    return (
        each.id,
        each.title,
        each.where or "not told",
        ", ".join(each.releases) or "not told",
        shown,
    )
