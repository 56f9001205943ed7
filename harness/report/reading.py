"""Results from files and folders: found, recognised by what they hold, checked."""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from harness.artifacts import reading
from harness.errors import HarnessError

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
    kind: reading.Kind
    tree: reading.Artifact


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A JSON file of a folder that is no result, and what it is instead."""

    path: pathlib.Path
    why: str


@dataclasses.dataclass(frozen=True)
class Sources:
    """All results of a page, by kind and in the order given, and what else lay in the folders."""

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
    found: list[tuple[pathlib.Path, reading.Kind, reading.Artifact]] = []
    skipped: list[Skipped] = []
    seen: set[pathlib.Path] = set()
    for path in paths:
        for file in _search(path) if path.is_dir() else [path]:
            if (real := file.resolve()) in seen:
                continue
            seen.add(real)
            tree = reading.load(file)
            kind, why = reading.recognise(file, tree)
            if kind is not None:
                found.append((file, kind, reading.validated(file, kind, tree)))
            elif path.is_dir():
                skipped.append(Skipped(file, why))
            else:
                raise HarnessError(
                    f"{file} is no result ({why}): give a result.json, or what check, plan or "
                    "gate wrote with --json, or pytest with --benchmark-json"
                )
    if not found:
        raise HarnessError(
            f"there is no result in {', '.join(map(str, paths)) or 'nothing'}: give the folder of "
            "a run, or what check, plan or gate wrote with --json"
        )
    order = list(reading.RESULTS)
    found.sort(key=lambda each: order.index(each[1]))
    return Sources(_named(found), tuple(skipped))


def _named(
    found: Sequence[tuple[pathlib.Path, reading.Kind, reading.Artifact]],
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
