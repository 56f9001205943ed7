"""Takes each fix away by itself, and looks at which properties then fail.

`python -m tests.support.each_fix` is the study; it takes a check of every property for each fix.
It exits with 1 if a property fails that does not name the issue, or if none fails that does.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any


def groups() -> dict[str, list[Any]]:
    """Return the known issues that are fixed here, by the fix that they have in common."""
    from harness import upstream

    found: dict[str, list[Any]] = {}
    for name in upstream.choose_fixes("patched"):
        issue = upstream.known_issue(name)
        found.setdefault(issue.fix_id, []).append(issue)
    return found


def without(fix: str, issues: Sequence[Any], always: set[str]) -> dict[str, Any]:
    """Check every property without a fix.

    Args:
      fix: Id of the issue that the fix is named after.
      issues: What it fixes.
      always: Properties that fail with every fix in place.

    Returns:
      A row of the study.
    """
    from harness.checks import runner

    report = runner.check("patched", fixes=f"all,-{issues[0].id}")
    broken = {each.property.id for each in report.outcomes if each.status == "known-defect"}
    other = {
        each.property.id for each in report.outcomes if each.status not in ("pass", "known-defect")
    }
    named = {name for issue in issues for name in issue.shown_by}
    return {
        "fix": fix,
        "broken": sorted(broken - always),
        "not_named": sorted((broken - always - named) | other),
        # Some are shown by a property that takes more than a check of the others, or by none.
        "ok": not other and broken - always <= named and bool(broken - always or not named),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; return 1 if a fix that is missing breaks too much, or nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fix", action="append", help="id; may be repeated; all if none")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args(arguments)
    from harness.checks import runner

    always = {
        each.property.id
        for each in runner.check("patched").outcomes
        if each.status == "known-defect"
    }
    rows = []
    for fix, issues in groups().items():
        if options.fix and fix not in options.fix:
            continue
        rows.append(without(fix, issues, always))
        print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(not all(row["ok"] for row in rows))


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.exit(main())
