"""The page of what the installed Tunix is held to, read from the properties."""

from harness import checks
from harness.checks.property import Property
from harness.docs import markdown


def page() -> str:
    """Return the page: a table of the properties of each area."""
    areas = dict.fromkeys(each.area for each in checks.PROPERTIES)
    blocks = [
        f"`python -m harness check` compares the installed Tunix with an independent "
        f"implementation in NumPy float64 by {len(checks.PROPERTIES)} properties. Those marked "
        "*slow* take minutes and are looked at with `--slow`. [Tolerances](../tolerances.md) has "
        "what each comparison allows, and why.",
    ]
    for area in areas:
        blocks += [
            f"## {area.capitalize()}",
            _table([p for p in checks.PROPERTIES if p.area == area]),
        ]
    return markdown.page("Properties", *blocks)


def _table(properties: list[Property]) -> str:
    lines = [
        [
            f'<span id="{each.id}">`{each.id}`</span>' + (" (slow)" if each.slow else ""),
            each.statement,
            str(each.tolerance),
            ", ".join(f"[`{name}`](known_issues.md#{name})" for name in each.defects),
        ]
        for each in properties
    ]
    return markdown.table(("property", "what must hold", "tolerance", "broken by"), lines)
