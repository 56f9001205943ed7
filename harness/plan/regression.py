"""A plan held to the one that is committed.

`python -m harness.plan.regression PLAN.json NEW.json [--update]` compares the
two, prints what became of the bytes, and exits with 1 where they differ though
the versions are the same.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from harness import crash, files
from harness.artifacts import reading
from harness.artifacts.plan import Plan
from harness.plan import comparison


def verdict(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Compare a committed plan with the same plan made again.

    Args:
      old: The committed one.
      new: The one made now.

    Returns:
      Whether it is as it should be, and the lines to print.
    """
    lines = comparison.compare(old, new)
    changed = {
        name: (version, new["versions"].get(name))
        for name, version in old["versions"].items()
        if version != new["versions"].get(name)
    }
    if changed:
        names = ", ".join(f"{name} {old} to {new}" for name, (old, new) in changed.items())
        return True, [f"other versions: {names}", *(lines or ["no byte changed"])]
    return not lines, lines or ["every byte as committed"]


def committed(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a plan is worth committing: nothing that depends on the hour."""
    programs = [
        {k: v for k, v in each.items() if k not in ("compile_seconds", "cached")}
        for each in plan["programs"]
    ]
    return {**{k: v for k, v in plan.items() if k != "host"}, "programs": programs}


def main(arguments: Sequence[str]) -> int:
    """Compare two files, or replace the old one by the new.

    Args:
      arguments: The committed plan, the new one, and perhaps `--update`.

    Returns:
      The exit code: 1 where bytes differ for equal versions.

    Raises:
      HarnessError: A file cannot be read or written.
    """
    parser = argparse.ArgumentParser(prog="harness.plan.regression")
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument("--update", action="store_true")
    given = parser.parse_args(arguments)
    new = reading.read(given.new, Plan)
    if given.update:
        given.old.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(given.old, json.dumps(committed(new.to_json()), indent=1) + "\n")
        print(f"written: {given.old}")
        return 0
    old = reading.read(given.old, Plan)
    # Whole, so that what one of them does not name has its default.
    good, lines = verdict(*(each.model_dump(mode="json", by_alias=True) for each in (old, new)))
    print("\n".join(lines))
    return 0 if good else 1


if __name__ == "__main__":
    crash.end(lambda: main(sys.argv[1:]))
