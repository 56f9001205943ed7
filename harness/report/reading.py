"""Results from files and folders: found, recognised by what they hold, checked."""

import dataclasses
import json
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pydantic

from harness.errors import HarnessError
from harness.report import kinds

_OURS = "tunix-ppo-harness/"
_SCHEMAS: Mapping[str, kinds.Kind] = {
    "tunix-ppo-harness/result/1": "run",
    "tunix-ppo-harness/check/1": "check",
    "tunix-ppo-harness/plan/1": "plan",
    "tunix-ppo-harness/gate/1": "gate",
}
# The layout of pytest-benchmark's JSON has not changed within these.
_PYTEST_BENCHMARK = ("5",)
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Source:
    """One result.

    Attributes:
      name: Its name on the page: the kind, and a number if there are several.
      path: The file, as it was given or found.
      kind: What it is of.
      tree: What it holds.
    """

    name: str
    path: pathlib.Path
    kind: kinds.Kind
    tree: kinds.Tree


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A JSON file of a folder that is no result.

    Attributes:
      path: The file.
      why: What it is instead.
    """

    path: pathlib.Path
    why: str


@dataclasses.dataclass(frozen=True)
class Sources:
    """All results of a page.

    Attributes:
      used: The results, by kind and in the order in which they were given.
      skipped: What else lay in the folders.
    """

    used: tuple[Source, ...]
    skipped: tuple[Skipped, ...]

    def of(self, model: type[_T]) -> list[tuple[Source, _T]]:
        """Return the results of one kind, each with what it holds."""
        return [(each, each.tree) for each in self.used if isinstance(each.tree, model)]


def read(paths: Sequence[pathlib.Path]) -> Sources:
    """Read results.

    Args:
      paths: Files, which must be results, and folders, which are searched for
        `*.json` at any depth; hidden folders are not.

    Returns:
      The results, each file once.

    Raises:
      HarnessError: A path is not there; a JSON file cannot be read; a file
        that was named is no result; a result is of a schema that is not known
        or lacks a part; or there is no result at all.
    """
    found: list[tuple[pathlib.Path, kinds.Kind, kinds.Tree]] = []
    skipped: list[Skipped] = []
    seen: set[pathlib.Path] = set()
    for path in paths:
        named = not path.is_dir()
        for file in [path] if named else _search(path):
            if (real := file.resolve()) in seen:
                continue
            seen.add(real)
            tree = _load(file)
            kind, why = _recognise(file, tree)
            if kind is not None:
                found.append((file, kind, _checked(file, kind, tree)))
            elif named:
                raise HarnessError(
                    f"{file} is no result ({why}): give a result.json, or what check, plan or "
                    "gate wrote with --json, or pytest with --benchmark-json"
                )
            else:
                skipped.append(Skipped(file, why))
    if not found:
        raise HarnessError(
            f"there is no result in {', '.join(map(str, paths)) or 'nothing'}: give the folder of "
            "a run, or what check, plan or gate wrote with --json"
        )
    found.sort(key=lambda each: kinds.KINDS.index(each[1]))
    return Sources(_named(found), tuple(skipped))


def _named(
    found: Sequence[tuple[pathlib.Path, kinds.Kind, kinds.Tree]],
) -> tuple[Source, ...]:
    many = Counter(kind for _, kind, _ in found)
    count: Counter[str] = Counter()
    named = []
    for path, kind, tree in found:
        count[kind] += 1
        name = f"{kind} {count[kind]}" if many[kind] > 1 else kind
        named.append(Source(name, path, kind, tree))
    return tuple(named)


def _search(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.rglob("*.json")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _load(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(f"{path} cannot be read ({error.strerror}): give a JSON file") from None
    except (ValueError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else error
        raise HarnessError(f"{path} is not JSON ({said}): write it anew, or remove it") from None


def _recognise(path: pathlib.Path, tree: Any) -> tuple[kinds.Kind | None, str]:
    """Return the kind of a file by what it holds, or what it is instead."""
    if not isinstance(tree, dict):
        return None, "it holds no JSON object"
    schema = tree.get("schema")
    if schema in _SCHEMAS and isinstance(schema, str):
        return _SCHEMAS[schema], ""
    if isinstance(schema, str) and schema.startswith(_OURS):
        if any(schema.rpartition("/")[0] == each.rpartition("/")[0] for each in _SCHEMAS):
            raise HarnessError(
                f"{path} is of schema '{schema}', which this version of the harness does not "
                "know: make the page with the version that wrote it"
            )
        return None, f"schema '{schema}'"
    if schema is not None:
        return None, f"unknown schema '{schema}'"
    if "machine_info" in tree and "benchmarks" in tree:
        version = str(tree.get("version"))
        if version.split(".")[0] not in _PYTEST_BENCHMARK:
            raise HarnessError(
                f"{path} was written by pytest-benchmark {version}, and those of "
                f"{' and '.join(_PYTEST_BENCHMARK)}.x are read: run the benchmarks again"
            )
        return "bench", ""
    if {"mode", "properties", "defects"} <= tree.keys():
        return "check", ""
    return None, "it names no schema"


def _checked(path: pathlib.Path, kind: kinds.Kind, tree: Any) -> kinds.Tree:
    try:
        return kinds.MODELS[kind].model_validate(tree)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise HarnessError(
            f"{path} is of kind {kind}, but {place}: {first['msg']}: write it anew with this "
            "version of the harness"
        ) from None
