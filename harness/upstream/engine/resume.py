"""Which checkpoint a run may go on from: whole, of both models, and its own.

Upstream keeps actor and critic in two folders that know nothing of each other.
Once both have a step, it is sealed: `checkpoints/sealed/STEP.json` holds size
and digest of every file of both. A run goes on from a sealed step alone.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from concurrent import futures

from orbax import checkpoint as ocp

from harness import errors, files

ROLES = ("actor", "critic")
_TEMPORARY = ".orbax-checkpoint-tmp"


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a run goes on.

    Attributes:
      step: Optimizer step of the checkpoint; 0 is the beginning.
      global_step: Global steps done by then.
      refused: What was found later and cannot be used, a sentence each.
    """

    step: int
    global_step: int
    refused: tuple[str, ...] = ()


def seal(directory: pathlib.Path, step: int, global_step: int, run: str) -> None:
    """Declare a step of both models whole.

    Args:
      directory: The run's folder; both models have the step in it.
      step: Optimizer step.
      global_step: Global steps done by then.
      run: Id of the run.

    Raises:
      HarnessError: It cannot be written.
    """
    root = directory / "checkpoints"
    folder = root / "sealed"
    tree = {"run": run, "step": step, "global_step": global_step, "files": _digests(root, step)}
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise files.cannot_write(folder, error) from None
    files.write_whole(folder / f"{step}.json", json.dumps(tree))
    for each in folder.glob("*.json"):  # of checkpoints that were deleted by now
        if not (root / "actor" / each.stem).is_dir():
            each.unlink(missing_ok=True)


def latest(directory: pathlib.Path, run: str) -> Point:
    """Find the newest step that is sealed and as it was sealed.

    Args:
      directory: The run's folder.
      run: Id of the run.

    Returns:
      The step, and what was refused before it was found. Nothing is changed.
    """
    root = directory / "checkpoints"
    refused: list[str] = []
    for step in sorted(_steps(root), reverse=True):
        try:
            sealed = json.loads((root / "sealed" / f"{step}.json").read_text())
            problem = _problem(root, sealed, run)
        except FileNotFoundError:
            problem = _unsealed(root, step, run)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"its seal cannot be read ({error})"
        if problem is None:
            return Point(step, sealed["global_step"], tuple(refused))
        refused.append(f"checkpoint of step {step} in {root} is refused: {problem}")
    return Point(0, 0, tuple(refused))


def roll_back(directory: pathlib.Path, point: Point, run: str) -> None:
    """Let a point be the newest checkpoint of both models.

    What this run wrote later is deleted; what it did not write is moved to
    `refused/`.

    Args:
      directory: The run's folder.
      point: From `latest`.
      run: Id of the run.

    Raises:
      HarnessError: The folder cannot be written.
    """
    root = directory / "checkpoints"
    try:
        for role in ROLES:
            for child in _children(root / role):
                name = child.name
                if _TEMPORARY in name:
                    shutil.rmtree(child)
                elif name.isdigit() and int(name) > point.step:
                    if _run_of(child) == run and not (root / "sealed" / f"{name}.json").exists():
                        shutil.rmtree(child)
                    else:
                        aside = directory / "refused" / f"{role}-{name}"
                        shutil.rmtree(aside, ignore_errors=True)
                        aside.parent.mkdir(exist_ok=True)
                        child.rename(aside)
        for child in _children(root / "sealed"):
            if child.suffix == ".json" and int(child.stem) > point.step:
                child.unlink()
    except OSError as error:
        raise errors.RunStopped(
            f"{root} cannot be written ({error.strerror}): make room or set its permissions, "
            "then go on by --resume"
        ) from None


def _steps(root: pathlib.Path) -> set[int]:
    return {
        step
        for role in ROLES
        if (root / role).is_dir()
        for step in ocp.utils.checkpoint_steps(root / role)
    }


def _children(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _digests(root: pathlib.Path, step: int) -> dict[str, list[int | str]]:
    """Return size and digest of every file of a step, by its path under `root`."""
    paths = [
        path
        for role in ROLES
        for path in sorted((root / role / str(step)).rglob("*"))
        if path.is_file()
    ]
    # A full critic with its moments is gigabytes; hashing gives the interpreter's lock back.
    with futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(
            zip(
                [path.relative_to(root).as_posix() for path in paths],
                pool.map(_digest, paths),
                strict=True,
            )
        )


def _digest(path: pathlib.Path) -> list[int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return [path.stat().st_size, digest]


def _problem(root: pathlib.Path, sealed: dict, run: str) -> str | None:
    if sealed["run"] != run:
        return "it is of another run"
    for name, (size, _) in sealed["files"].items():
        path = root / name
        if not path.is_file():
            return f"it lacks {name}"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes of {size}, it is truncated or foreign"
    found = _digests(root, sealed["step"])
    for name in sorted(found.keys() | sealed["files"].keys()):
        if found.get(name) != sealed["files"].get(name):
            return f"{name} is not what the run wrote, it is damaged or foreign"
    return None


def _unsealed(root: pathlib.Path, step: int, run: str) -> str:
    folders = [root / role / str(step) for role in ROLES]
    lacking = [folder.parent.name for folder in folders if not folder.is_dir()]
    if any(folder.is_dir() and _run_of(folder) != run for folder in folders):
        return "it is not of this run"
    if lacking:
        return f"the run was cut off before the {lacking[0]} was saved"
    return "the run was cut off before it was known to be whole"


def _run_of(folder: pathlib.Path) -> str | None:
    try:
        return json.loads((folder / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
