"""What a run saves in its folder so that another process can go on where it stopped.

`progress/` beside the results holds which run it is (`run.json`), what each
finished stage found (`stages/`), what each global step logged
(`journal.jsonl`), what the run does now (`now.json`), and a lock that the
kernel lets go when its holder dies.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import filelock

from harness import errors, files
from harness import recipe as recipe_lib

SCHEMA = "tunix-ppo-harness/progress/1"
FOLDER = "progress"

Scalar = tuple[str, float, int]


@dataclasses.dataclass(frozen=True)
class Identity:
    """Which run it is.

    Attributes:
      id: Drawn when the run began; its checkpoints carry it.
      recipe: What is run.
      mode: `patched` or `stock`.
      environment: Versions and devices under which it began.
      fixes: Which fixes were chosen, as `harness.upstream.choose_fixes` takes it.
    """

    id: str
    recipe: recipe_lib.Recipe
    mode: str
    environment: Mapping[str, Any]
    fixes: str = "all"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one global step logged.

    Attributes:
      global_step: Global steps done with it, from 1.
      scalars: Event, value and step of each figure, in their order.
    """

    global_step: int
    scalars: tuple[Scalar, ...]


class RunDirectory:
    """A claimed folder.

    Attributes:
      out: The run's folder.
      identity: Which run it is.
      resumed: Whether an earlier process began it.
    """

    def __init__(self, out: pathlib.Path, identity: Identity, *, resumed: bool):
        """Take a folder as it is; see `claim`."""
        self.out = out
        self.identity = identity
        self.resumed = resumed
        self._root = out / FOLDER

    def stage(self, name: str) -> dict[str, Any] | None:
        """Return what a finished stage found, None if it was not finished."""
        try:
            return json.loads((self._root / "stages" / f"{name}.json").read_text())
        except FileNotFoundError:
            return None

    def save_stage(self, name: str, found: Mapping[str, Any]) -> None:
        """Save what a stage found, as plain JSON values.

        Raises:
          HarnessError: It cannot be written.
        """
        folder = self._root / "stages"
        folder.mkdir(exist_ok=True)
        files.write_whole(folder / f"{name}.json", json.dumps(found, ensure_ascii=False))

    def record(self, entry: Entry) -> None:
        """Add a global step to the journal; it is on the disk when this returns.

        Raises:
          HarnessError: It cannot be written.
        """
        files.append_line(self._journal, json.dumps(dataclasses.asdict(entry)))

    def journal(self) -> list[Entry]:
        """Read the whole lines of the journal; a torn last one does not count."""
        try:
            *lines, _ = self._journal.read_text().split("\n")
        except FileNotFoundError:
            return []
        entries = [json.loads(line) for line in lines]
        return [
            Entry(each["global_step"], tuple((e, v, s) for e, v, s in each["scalars"]))
            for each in entries
        ]

    def truncate(self, global_step: int) -> list[Scalar]:
        """Truncate the journal after a global step.

        Args:
          global_step: Global steps that stay.

        Returns:
          The figures that stay, in their order.

        Raises:
          HarnessError: The journal lacks one of them, or cannot be written.
        """
        left = [entry for entry in self.journal() if entry.global_step <= global_step]
        if [entry.global_step for entry in left] != list(range(1, global_step + 1)):
            raise errors.RunStopped(
                f"{self._journal} does not hold each of the {global_step} global steps that were "
                "done: begin anew in another folder"
            )
        text = "".join(json.dumps(dataclasses.asdict(entry)) + "\n" for entry in left)
        files.write_whole(self._journal, text)
        return [scalar for entry in left for scalar in entry.scalars]

    def now(self, phase: str, **details: Any) -> None:
        """Record what the run does from now on, for readers of its folder.

        Raises:
          HarnessError: It cannot be written.
        """
        # Not worth a wait for the disk.
        text = json.dumps({"phase": phase, **details})
        files.write_whole(self._root / "now.json", text, durable=False)

    @property
    def _journal(self) -> pathlib.Path:
        return self._root / "journal.jsonl"


def identity_of(out: pathlib.Path) -> Identity | None:
    """Return the run that a folder belongs to.

    Args:
      out: Any folder.

    Returns:
      The run, None if no run began there.

    Raises:
      HarnessError: What is written there cannot be read.
    """
    path = out / FOLDER / "run.json"
    try:
        tree = json.loads(path.read_text())
        if tree["schema"] != SCHEMA:
            raise ValueError(f"it is of schema {tree['schema']}")
        recipe = recipe_lib.from_dict(tree["recipe"])
        return Identity(
            tree["id"], recipe, tree["mode"], tree["environment"], tree.get("fixes", "all")
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.HarnessError(f"{path} cannot be read ({error}): give another folder") from None


@contextlib.contextmanager
def claim(
    out: pathlib.Path,
    recipe: recipe_lib.Recipe,
    mode: str,
    environment: Mapping[str, Any],
    *,
    fixes: str = "all",
    resume: bool = False,
    worth_saving: Sequence[str] = (),
) -> Iterator[RunDirectory]:
    """Make a folder a run's own, for as long as the process lives.

    If the run cannot be done, the folder is left as it was found; unless the
    run had begun to produce what is worth saving.

    Args:
      out: The folder.
      recipe: What is to run.
      mode: `patched` or `stock`.
      environment: Versions and devices.
      fixes: Which fixes are chosen.
      resume: Whether to go on with a run that the folder holds; where it holds
        none, one begins.
      worth_saving: Glob patterns in the folder; where one matches, a failed
        run's folder stays.

    Yields:
      The folder.

    Raises:
      HarnessError: The folder cannot be written, holds something else, or is
        another process's.
    """
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(_taken(out))
        if found is not None:
            if not resume:
                raise _not_empty(out)
            _check_same(out, found, recipe, mode, fixes)
            _clean(out)
            yield RunDirectory(out, found, resumed=True)
            return
        stack.enter_context(_emptied_again(out, worth_saving))
        made = Identity(secrets.token_hex(8), recipe, mode, environment, fixes)
        _introduce(out, made)
        yield RunDirectory(out, made, resumed=False)


@contextlib.contextmanager
def _taken(out: pathlib.Path) -> Iterator[Identity | None]:
    """Make and lock a folder, and yield the run that it holds, if any.

    What was made is removed again where no run began.
    """
    created: list[pathlib.Path] = []
    try:
        with contextlib.ExitStack() as stack:
            try:
                if not (out / FOLDER).is_dir() and out.is_dir() and any(out.iterdir()):
                    raise _not_empty(out)
                created = _make(out / FOLDER)
                stack.enter_context(_locked(out))
                found = identity_of(out)
                if found is None and any(each.name != FOLDER for each in out.iterdir()):
                    raise _not_empty(out)
            except OSError as error:
                raise errors.HarnessError(
                    f"output folder {out} cannot be written ({error.strerror}): give another one"
                ) from None
            if found is None:
                created = created or [out / FOLDER]
            yield found
    except errors.HarnessError:
        if not (out / FOLDER / "run.json").exists():
            if created:
                shutil.rmtree(out / FOLDER, ignore_errors=True)
            for folder in created:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        raise


@contextlib.contextmanager
def _emptied_again(out: pathlib.Path, worth_saving: Sequence[str]) -> Iterator[None]:
    """Empty a folder again if its run cannot be done and has saved nothing yet."""
    try:
        yield
    except errors.RunStopped:
        raise
    except errors.HarnessError:
        if not any(True for pattern in worth_saving for _ in out.glob(pattern)):
            # The folder was empty when the run took it.
            for child in out.iterdir():
                if child.name != FOLDER:
                    shutil.rmtree(child) if child.is_dir() else child.unlink()
            (out / FOLDER / "run.json").unlink(missing_ok=True)
        raise


def _clean(out: pathlib.Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote."""
    root = out / FOLDER
    for folder in (out, root, root / "stages", out / "checkpoints" / "sealed"):
        files.remove_temporaries(folder)


def terminated(out: pathlib.Path) -> errors.Terminated:
    """Return the error of a run that ends because it was asked to."""
    return errors.Terminated(f"stopped as asked; go on with: run --resume --out {out}")


def _make(folder: pathlib.Path) -> list[pathlib.Path]:
    """Make a folder and those above it; return what was made, the innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _not_empty(out: pathlib.Path) -> errors.HarnessError:
    return errors.HarnessError(
        f"output folder {out} is not empty, it may hold another run: give a new folder, remove "
        "it, or go on with that run by --resume"
    )


@contextlib.contextmanager
def _locked(out: pathlib.Path) -> Iterator[None]:
    path = out / FOLDER / "lock"
    # By the kernel's lock alone, which ends with its holder: a mere marker would outlive it.
    lock = filelock.FileLock(path, fallback_to_soft=False)
    try:
        # Long enough to try again where the last holder removes the folder meanwhile.
        lock.acquire(timeout=0.1, poll_interval=0.02)
    except filelock.Timeout:
        holder = path.read_text().strip() or "unknown"
        raise errors.RunStopped(
            f"another run (process {holder}) is writing to {out}: let it end, or give another "
            "folder"
        ) from None
    try:
        path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def _check_same(
    out: pathlib.Path, found: Identity, recipe: recipe_lib.Recipe, mode: str, fixes: str
) -> None:
    asked = {"upstream": mode, "fixes": fixes, **_leaves(recipe_lib.to_dict(recipe))}
    there = {
        "upstream": found.mode,
        "fixes": found.fixes,
        **_leaves(recipe_lib.to_dict(found.recipe)),
    }
    for name in sorted(asked.keys() | there.keys()):
        if asked.get(name) != there.get(name):
            raise errors.HarnessError(
                f"the run in {out} has {name} = {there.get(name)}, not {asked.get(name)}: give the "
                "options with which it began, or --resume alone"
            )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _introduce(out: pathlib.Path, identity: Identity) -> None:
    tree = {
        "schema": SCHEMA,
        "id": identity.id,
        "mode": identity.mode,
        "fixes": identity.fixes,
        "recipe": recipe_lib.to_dict(identity.recipe),
        "environment": dict(identity.environment),
    }
    files.write_whole(out / FOLDER / "run.json", json.dumps(tree, indent=2) + "\n")
