"""The page of what is known to be wrong in Tunix's PPO, read from the registry."""

from collections.abc import Sequence

from harness import upstream
from harness.docs import markdown


def page() -> str:
    """Return the page: a table of all issues, and a section for each."""
    issues = upstream.KNOWN_ISSUES
    fixed = [each for each in issues if each.fix]
    blocks = [
        f"{len(issues)} issues in the PPO of Tunix are known; {len(fixed)} are fixed by the "
        f"harness unless `--upstream stock` asks for Tunix as installed. {_by_release(issues)} "
        "A fix is applied only where its probe, a small experiment on the installed Tunix, finds "
        "the issue. `python -m harness check --explain ID` prints an issue with a script that "
        "shows it on Tunix alone, ready to be filed.",
        "## Fixed",
        _table(fixed),
        "## Not fixed",
        _table([each for each in issues if not each.fix]),
        "## Details",
        *(_section(each) for each in issues),
    ]
    return markdown.page("Known issues", *blocks)


def _by_release(issues: Sequence[upstream.KnownIssue]) -> str:
    counts = [
        f"{release} has {sum(release in each.releases for each in issues)}"
        for release in upstream.SUPPORTED
    ]
    return " and ".join(counts) + "."


def _table(issues: Sequence[upstream.KnownIssue]) -> str:
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


def _section(issue: upstream.KnownIssue) -> str:
    aspects = {
        "Where": markdown.code(issue.where),
        "Effect": markdown.plain(issue.effect),
        "Fix": markdown.plain(issue.fix or "none"),
        "Properties": ", ".join(f"[`{each}`](properties.md#{each})" for each in issue.shown_by),
        "Releases": _releases(issue),
    }
    lines = [f"### {issue.id}", "", f"**{markdown.plain(issue.title)}**", ""]
    lines += [f"- **{heading}**: {text}" for heading, text in aspects.items() if text]
    return "\n".join(lines)


def _releases(issue: upstream.KnownIssue) -> str:
    return ", ".join(issue.releases)
