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
    """One result: what it holds, of which kind, from which file, and its name on the page."""

    path: pathlib.Path
    kind: reading.Kind
    tree: reading.Artifact
    name: str = ""


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
    found: list[Source] = []
    skipped: list[Skipped] = []
    files: dict[pathlib.Path, tuple[pathlib.Path, pathlib.Path]] = {}
    for path in paths:
        for file in _search(path) if path.is_dir() else [path]:
            files.setdefault(file.resolve(), (file, path))
    for file, path in files.values():
        tree = reading.load(file)
        kind, why = reading.recognise(file, tree)
        if kind is not None:
            found.append(Source(file, kind, reading.validated(file, kind, tree)))
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
    return Sources(_named(found), tuple(skipped))


def _named(found: Sequence[Source]) -> tuple[Source, ...]:
    """Order results by kind, and number those of a kind."""
    many, count, named = Counter(each.kind for each in found), Counter(), []
    for each in sorted(found, key=lambda each: reading.RESULTS.index(each.kind)):
        count[each.kind] += 1
        name = f"{each.kind} {count[each.kind]}" if many[each.kind] > 1 else each.kind
        named.append(dataclasses.replace(each, name=name))
    return tuple(named)


def _search(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.rglob("*.json")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
