"""The page of what is known to be wrong in Tunix's PPO, read from the registry."""

from typing import Any

from harness import upstream
from harness.docs import markdown

# Headings of what an issue says of itself, by attribute. The first attribute that
# an issue has is used.
_ASPECTS = {
    "Where": ("where",),
    "Effect": ("effect",),
    "Fix": ("fix",),
    "Properties": ("shown_by", "properties"),
    "Releases": ("releases",),
}


def page() -> str:
    """Return the page: a table of all issues, and a section for each."""
    issues = upstream.KNOWN_ISSUES
    fixed = [each for each in issues if fix_text(each)]
    blocks = [
        f"{len(issues)} issues in the PPO of Tunix are known; {len(fixed)} are fixed by the "
        f"harness unless `--upstream stock` asks for Tunix as installed. {_by_release(issues)} "
        "A fix is applied only where its probe, a small experiment on the installed Tunix, finds "
        "the issue. `python -m harness check --explain ID` prints an issue with a script that "
        "shows it on Tunix alone, ready to be filed.",
        "## Fixed",
        _table(fixed),
        "## Not fixed",
        _table([each for each in issues if not fix_text(each)]),
        "## Details",
        *(_section(each) for each in issues),
    ]
    return markdown.page("Known issues", *blocks)


def _by_release(issues: Any) -> str:
    counts = [
        f"{release} has {sum(release in each.releases for each in issues)}"
        for release in upstream.SUPPORTED
    ]
    return " and ".join(counts) + "."


def _table(issues: Any) -> str:
    lines = [
        [
            f"[`{each.id}`](#{each.id})",
            markdown.plain(each.title),
            markdown.plain(each.effect),
            _releases(each),
        ]
        for each in issues
    ]
    return markdown.table(("id", "what is wrong", "effect", "releases"), lines)


def _section(issue: Any) -> str:
    lines = [f"### {issue.id}", "", f"**{markdown.plain(issue.title)}**", ""]
    for heading, names in _ASPECTS.items():
        text = _aspect(issue, heading, names)
        if text:
            lines.append(f"- **{heading}**: {text}")
    return "\n".join(lines)


def _aspect(issue: Any, heading: str, names: tuple[str, ...]) -> str:
    if heading == "Fix":
        return markdown.plain(fix_text(issue) or "none")
    if heading == "Releases":
        return _releases(issue)
    value = next((getattr(issue, name) for name in names if hasattr(issue, name)), None)
    if heading == "Properties":
        return ", ".join(f"[`{each}`](properties.md#{each})" for each in value or ())
    if heading == "Where":
        return markdown.code(value) if value else ""
    return markdown.plain(value or "")


def fix_text(issue: Any) -> str | None:
    """Return what the fix of an issue does, or None if there is no fix."""
    value = next((getattr(issue, name) for name in _ASPECTS["Fix"] if hasattr(issue, name)), None)
    if value is None or isinstance(value, str):
        return value
    return markdown.summary(value).partition("\n\n")[0]


def _releases(issue: Any) -> str:
    return ", ".join(issue.releases)
