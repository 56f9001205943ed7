"""Read a JSON file, find out what it is of, and refuse what cannot be used in one sentence."""

import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar, cast

import pydantic

from harness.artifacts import bench, check, gate, plan, run
from harness.errors import HarnessError

Kind = Literal["run", "check", "plan", "bench", "gate", "exact figures", "baseline", "reference"]
Artifact = run.Run | check.Check | plan.Plan | bench.Bench | gate.Gate
KINDS: Mapping[Kind, type[pydantic.BaseModel]] = {
    "run": run.Run,
    "check": check.Check,
    "plan": plan.Plan,
    "bench": bench.Bench,
    "gate": gate.Gate,
    "exact figures": bench.Measured,
    "baseline": gate.Baseline,
    "reference": gate.Reference,
}
# What `report` shows.
RESULTS: tuple[Kind, ...] = ("run", "check", "plan", "bench", "gate")
_SCHEMAS: Mapping[str, Kind] = {
    run.SCHEMA: "run",
    check.SCHEMA: "check",
    plan.SCHEMA: "plan",
    gate.SCHEMA: "gate",
    bench.SCHEMA: "exact figures",
    gate.BASELINE_SCHEMA: "baseline",
    gate.LEARNING_SCHEMA: "reference",
}
_WRITTEN_BY: Mapping[Kind, str] = {
    "run": "the result.json of `run`",
    "check": "a file of `check --json`",
    "plan": "a file of `plan --json`",
    "bench": "a file of `pytest --benchmark-json`",
    "gate": "a file of `gate --json`",
    "exact figures": "the answer of a benchmark process",
    "baseline": "a baseline of `gate --update-baseline`",
    "reference": "a reference of `gate --learning DIR... --update-baseline`",
}
_OURS = "tunix-ppo-harness/"
_Model = TypeVar("_Model", bound=pydantic.BaseModel)


def read(path: pathlib.Path, model: type[_Model]) -> _Model:
    """Read a file of one kind.

    Args:
      path: The file.
      model: The model of its kind.

    Returns:
      What it holds.

    Raises:
      HarnessError: It cannot be read, is not JSON, is of another kind or version, or lacks a
        part.
    """
    kinds: list[Kind] = [each for each, known in KINDS.items() if known is model]
    return cast(_Model, read_any(path, kinds)[1])


def read_any(path: pathlib.Path, kinds: Collection[Kind]) -> tuple[Kind, Any]:
    """Read a file of one of some kinds.

    Args:
      path: The file.
      kinds: Those that can be used.

    Returns:
      Its kind, and what it holds as a model of `KINDS`.

    Raises:
      HarnessError: As for `read`.
    """
    tree = load(path)
    kind, why = recognise(path, tree, kinds)
    if kind is None:
        wanted = ", or ".join(_WRITTEN_BY[each] for each in kinds)
        raise HarnessError(f"{path} cannot be used ({why}): give {wanted}")
    return kind, validated(path, kind, tree)


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


def recognise(
    path: pathlib.Path, tree: Any, kinds: Collection[Kind] = RESULTS
) -> tuple[Kind | None, str]:
    """Find out of which of some kinds a file is, by what it holds.

    Args:
      path: The file, for messages.
      tree: What it holds.
      kinds: Those that count.

    Returns:
      The kind, or None and what it is instead.

    Raises:
      HarnessError: It is of one of the kinds, in a version that is not known.
    """
    if not isinstance(tree, dict):
        return None, "it holds no JSON object"
    if (schema := tree.get("schema")) is not None:
        return _by_schema(path, schema, kinds)
    if "bench" in kinds and "machine_info" in tree and "benchmarks" in tree:
        version = str(tree.get("version"))
        if version.split(".")[0] not in bench.PYTEST_BENCHMARK:
            raise HarnessError(
                f"{path} was written by pytest-benchmark {version}, and those of "
                f"{' and '.join(bench.PYTEST_BENCHMARK)}.x are read: run the benchmarks again"
            )
        conditions = tree.get("harness")
        if isinstance(conditions, dict) and conditions.get("schema") != bench.SCHEMA:
            raise _unknown_version(path, conditions.get("schema"))
        return "bench", ""
    if "check" in kinds and {"mode", "properties", "defects"} <= tree.keys():
        raise HarnessError(
            f"{path} is of `check --json` before its files had a schema: run the check again"
        )
    return None, "it names no schema"


def _by_schema(path: pathlib.Path, schema: Any, kinds: Collection[Kind]) -> tuple[Kind | None, str]:
    known: dict[str, Kind] = {name: kind for name, kind in _SCHEMAS.items() if kind in kinds}
    if not isinstance(schema, str) or not schema.startswith(_OURS):
        return None, f"unknown schema {schema!r}"
    if schema in known:
        return known[schema], ""
    if schema.rpartition("/")[0] in {name.rpartition("/")[0] for name in known}:
        raise _unknown_version(path, schema)
    return None, f"schema '{schema}'"


def _unknown_version(path: pathlib.Path, schema: Any) -> HarnessError:
    return HarnessError(
        f"{path} is of schema '{schema}', which this version of the harness does not know: read "
        "it with the version that wrote it"
    )


def validated(path: pathlib.Path | str, kind: Kind, tree: Any) -> Any:
    """Return what a file holds as the model of its kind.

    Args:
      path: The file, or another name for messages.
      kind: What it is of.
      tree: Plain JSON values.

    Returns:
      A model of `KINDS`.

    Raises:
      HarnessError: A part is missing, or of another type or range.
    """
    try:
        return KINDS[kind].model_validate(tree)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise HarnessError(
            f"{path} is of kind {kind}, but {where}: {first['msg']}: write it anew with this "
            "version of the harness"
        ) from None
