"""Each fix taken away by itself: the properties that name its issues fail, and no other.

A check of every property for each fix takes minutes: `nox -s fix_study` is a session of its own.
"""

import pytest

from harness import upstream
from harness.checks import runner

pytestmark = [
    pytest.mark.study,
    # The very defects that JAX warns of are there again.
    pytest.mark.filterwarnings("ignore:scatter inputs have incompatible:FutureWarning"),
]


def issues_by_fix() -> dict[str, list[upstream.KnownIssue]]:
    """The known issues that are fixed here, by the fix that they have in common."""
    found: dict[str, list[upstream.KnownIssue]] = {}
    for name in upstream.choose_fixes("patched"):
        issue = upstream.known_issue(name)
        found.setdefault(issue.fix_id, []).append(issue)
    return found


def failing(fixes: str) -> dict[str, str]:
    """Train with some fixes, and return the properties that do not pass, with their status."""
    outcomes = runner.check("patched", fixes=fixes).outcomes
    return {each.property.id: each.status for each in outcomes if each.status != "pass"}


@pytest.fixture(scope="module")
def always() -> dict[str, str]:
    """What does not pass with every fix in place: known issues without a fix."""
    found = failing("all")
    assert set(found.values()) <= {"known-defect"}
    return found


@pytest.mark.parametrize("fix", issues_by_fix())
def test_a_fix_that_is_taken_away_fails_the_properties_that_name_it_and_no_other(fix, always):
    issues = issues_by_fix()[fix]
    found = failing(f"all,-{issues[0].id}")
    assert set(found.values()) <= {"known-defect"}
    named = {name for issue in issues for name in issue.shown_by}
    fast = {each.id for each in runner.checks.select()}
    broken = found.keys() - always.keys()
    assert broken <= named
    # Some issues are shown by a slow property, or by their reproduction alone.
    assert broken or not named & fast
