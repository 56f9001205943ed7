"""Read a JSON file, find out what it is of, and refuse what cannot be used in one sentence."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import pydantic

from harness.artifacts import bench, check, gate, plan, run
from harness.errors import HarnessError

Kind = Literal["run", "check", "plan", "bench", "gate"]
Artifact = run.Run | check.Check | plan.Plan | bench.Bench | gate.Gate
KINDS: Mapping[Kind, type[Artifact]] = {
    "run": run.Run,
    "check": check.Check,
    "plan": plan.Plan,
    "bench": bench.Bench,
    "gate": gate.Gate,
}
_SCHEMAS: Mapping[str, Kind] = {
    run.SCHEMA: "run",
    check.SCHEMA: "check",
    plan.SCHEMA: "plan",
    gate.SCHEMA: "gate",
}
_OURS = "tunix-ppo-harness/"
_Model = TypeVar("_Model", bound=pydantic.BaseModel)


def load(path: pathlib.Path) -> Any:
    """Return what a JSON file holds.

    Args:
      path: The file.

    Returns:
      Plain JSON values.

    Raises:
      HarnessError: It cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(f"{path} cannot be read ({error.strerror}): give a JSON file") from None
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise HarnessError(f"{path} is not JSON ({why}): write it anew, or remove it") from None


def recognise(path: pathlib.Path, tree: Any) -> tuple[Kind | None, str]:
    """Find out of which kind a file is, by what it holds.

    Args:
      path: The file, for messages.
      tree: What it holds.

    Returns:
      The kind, or None and what it is instead.

    Raises:
      HarnessError: It is of a version that is not known.
    """
    if not isinstance(tree, dict):
        return None, "it holds no JSON object"
    schema = tree.get("schema")
    if isinstance(schema, str) and schema in _SCHEMAS:
        return _SCHEMAS[schema], ""
    if isinstance(schema, str) and schema.startswith(_OURS):
        if any(schema.rpartition("/")[0] == each.rpartition("/")[0] for each in _SCHEMAS):
            raise HarnessError(
                f"{path} is of schema '{schema}', which this version of the harness does not "
                "know: read it with the version that wrote it"
            )
        return None, f"schema '{schema}'"
    if schema is not None:
        return None, f"unknown schema '{schema}'"
    if "machine_info" in tree and "benchmarks" in tree:
        version = str(tree.get("version"))
        if version.split(".")[0] not in bench.PYTEST_BENCHMARK:
            raise HarnessError(
                f"{path} was written by pytest-benchmark {version}, and those of "
                f"{' and '.join(bench.PYTEST_BENCHMARK)}.x are read: run the benchmarks again"
            )
        return "bench", ""
    if {"mode", "properties", "defects"} <= tree.keys():
        return "check", ""
    return None, "it names no schema"


def validated(path: pathlib.Path | str, kind: str, model: type[_Model], tree: Any) -> _Model:
    """Return what a file holds as a model.

    Args:
      path: The file, or another name for messages.
      kind: What it is of, for messages.
      model: Its model.
      tree: Plain JSON values.

    Returns:
      The model.

    Raises:
      HarnessError: A part is missing, or of another type or range.
    """
    try:
        return model.model_validate(tree)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise HarnessError(
            f"{path} is of kind {kind}, but {place}: {first['msg']}: write it anew with this "
            "version of the harness"
        ) from None
