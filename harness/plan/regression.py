"""A plan held to the one that is committed.

`python -m harness.plan.regression PLAN.json NEW.json [--update]` compares the
two, prints what became of the bytes, and exits with 1 where they differ though
the versions are the same.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from harness import crash, errors, files
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
    old_file, new_file = (pathlib.Path(each) for each in arguments[:2])
    new = _read(new_file)
    if "--update" in arguments:
        old_file.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(old_file, json.dumps(committed(new), indent=1) + "\n")
        print(f"written: {old_file}")
        return 0
    good, lines = verdict(_read(old_file), new)
    print("\n".join(lines))
    return 0 if good else 1


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.HarnessError(
            f"plan {path} cannot be read ({error}): nox -s plan -- --update writes it"
        ) from None


if __name__ == "__main__":
    crash.end(lambda: main(sys.argv[1:]))
