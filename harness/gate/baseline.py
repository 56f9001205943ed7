"""Baselines on disk: small, readable, and changed only for a reason that is stored."""

import json
import pathlib
import re

from harness import files
from harness.artifacts import gate as artifact
from harness.errors import HarnessError
from harness.gate import exact, records


def path_for(folder: pathlib.Path, record: records.Record) -> pathlib.Path:
    """Return the file of a record's kind, recipe and chip.

    Args:
      folder: Where baselines live.
      record: What is to be stored, or compared with one.

    Returns:
      A path such as `exact-tiny-cpu.json`. Versions are not part of it: a
      baseline of other versions is to be reported, not passed over.
    """
    chip = record.conditions.get("chip") or record.conditions.get("device") or "unknown"
    parts = [
        "plan" if record.kind == "plan" else "exact",
        str(record.conditions.get("recipe.name", "unknown")),
        str(chip),
    ]
    return folder / (re.sub(r"[^a-z0-9.]+", "-", "-".join(parts).lower()).strip("-") + ".json")


def write(path: pathlib.Path, record: records.Record, reason: str) -> None:
    """Take a record as the baseline from now on.

    Args:
      path: The baseline; what is there has its history.
      record: The new figures.
      reason: Why they are right.

    Raises:
      HarnessError: No reason is given, or the file cannot be read or written.
    """
    reason = " ".join(reason.split())
    if not reason:
        raise HarnessError("a baseline is changed for a reason only: give --reason WHY")
    before = records.read(path, tuple(exact.FIGURES)).history if path.exists() else ()
    tree = artifact.Baseline(
        schema=artifact.BASELINE_SCHEMA,
        kind=record.kind,
        judged=dict(record.judged),
        conditions=dict(sorted(record.conditions.items())),
        exact={name: dict(figures) for name, figures in sorted(record.exact.items())},
        history=[*map(dict, before), {"reason": reason, **record.judged}],
    ).to_json()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, json.dumps(tree, indent=1) + "\n")


def read(path: pathlib.Path) -> records.Record:
    """Read a baseline.

    Args:
      path: The file.

    Returns:
      The record.

    Raises:
      HarnessError: There is none, or it is of another schema.
    """
    if not path.exists():
        raise HarnessError(
            f"there is no baseline {path}: make one with `gate --update-baseline --reason WHY`"
        )
    return records.read(path, tuple(exact.FIGURES))
