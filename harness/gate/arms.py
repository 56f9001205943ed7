"""The two sides of a comparison: where each one's code and packages are, and its processes.

The measurement code is the candidate's on both sides: it is laid over
the other arm's checkout, so that only what is measured differs. An arm's
process answers in JSON lines; nothing of it is imported here.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import pydantic

from harness import jsonlines
from harness.artifacts import bench
from harness.errors import HarnessError

WORKER = "harness.bench.worker"
# What measures, and so must be the same in both arms.
MEASUREMENT_CODE = (
    "harness/bench",
    "harness/measure",
    "harness/artifacts/bench.py",
    "harness/artifacts/parts.py",
    "harness/upstream/instrument/step_programs.py",
    "harness/hardware.py",
    "harness/programs.py",
    "harness/jsonlines.py",
)
# What is judged, and so may differ between the two environments.
JUDGED = ("google-tunix", "tunix-ppo-harness")
TIMEOUT_SECONDS = 900.0
# What makes environments, and is not used in them; a virtual environment has its own.
INSTALLERS = ("pip", "setuptools", "wheel")
_LAST_LINES = 8
_Header = TypeVar("_Header", bound=bench.Header)


class ArmFailedError(HarnessError):
    """An arm's process ended without an answer; the message ends with its last lines."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One side.

    Attributes:
      name: `baseline` or `candidate`.
      label: What it is, in words.
      root: Folder that holds its `harness` package.
      python: Its interpreter.
      commit: Commit of the project; None if it is not known.
    """

    name: str
    label: str
    root: pathlib.Path
    python: str
    commit: str | None


def candidate(root: pathlib.Path, *, dirty: bool = False) -> Arm:
    """Return the arm of this checkout and this environment.

    Args:
      root: Folder that holds the `harness` package.
      dirty: Whether changes that are not committed may be judged too.

    Returns:
      The arm.

    Raises:
      HarnessError: The worktree has changes, and they were not asked for.
    """
    commit = None
    label = "this installation"
    if (root / ".git").exists():
        commit = _git(root, "rev-parse", "HEAD")
        label = f"commit {commit[:10]}"
        changed = _git(
            root, "status", "--porcelain", "--", "harness", "pyproject.toml"
        ).splitlines()
        if changed and not dirty:
            raise HarnessError(
                f"the worktree has changes ({', '.join(line[3:] for line in changed[:3])}"
                f"{' and more' if len(changed) > 3 else ''}): commit or stash them, or judge them "
                "as they are with --dirty"
            )
        label += " with uncommitted changes" if changed else ""
    return Arm("candidate", label, root, sys.executable, commit)


@contextlib.contextmanager
def against(reference: str, here: Arm, environments: pathlib.Path) -> Iterator[Arm]:
    """Make the other arm, with a checkout and an environment of its own.

    Args:
      reference: A git reference of the project, or `tunix==VERSION`.
      here: The candidate.
      environments: Folder in which environments are stored, by what is in them.

    Yields:
      The baseline; its checkout is removed afterwards.

    Raises:
      HarnessError: There is no such reference or version, or the environment
        cannot be made.
    """
    version = tunix_version(reference)
    pins = freeze(here)
    if version:
        pins["google-tunix"] = version
        python = environment(pins, environments)
        label = f"Tunix {version} under {here.label}"
        yield Arm("baseline", label, here.root, python, here.commit)
        return
    if not (here.root / ".git").exists():
        raise HarnessError(
            f"'{reference}' is a git reference, but {here.root} is no checkout: run the gate in "
            "one, or give tunix==VERSION"
        )
    commit = resolve(here.root, reference)
    with tempfile.TemporaryDirectory(prefix="ppo-harness-arm-") as folder:
        tree = pathlib.Path(folder, "tree")
        _git(here.root, "worktree", "add", "--detach", "--force", os.fspath(tree), commit)
        try:
            pins |= changed_pins(here.root / "constraints.txt", tree / "constraints.txt", pins)
            lay_measurement_code(here.root, tree)
            python = environment(pins, environments)
            yield Arm("baseline", f"{reference} ({commit[:10]})", tree, python, commit)
        finally:
            _git(here.root, "worktree", "remove", "--force", os.fspath(tree))


def tunix_version(reference: str) -> str | None:
    """Return the version that `tunix==VERSION` names; None for anything else."""
    found = re.fullmatch(r"(?:google-)?tunix==([A-Za-z0-9.+!]+)", reference)
    return found[1] if found else None


def resolve(root: pathlib.Path, reference: str) -> str:
    """Return the commit of a git reference.

    Args:
      root: The checkout.
      reference: Branch, tag or commit.

    Returns:
      The full commit id.

    Raises:
      HarnessError: There is no such reference.
    """
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise HarnessError(
            f"git knows no reference '{reference}': give a branch, tag or commit that `git log` "
            "shows (fetch it first), or tunix==VERSION"
        )
    return found.stdout.strip()


def lay_measurement_code(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy what measures from one checkout over another."""
    for part in MEASUREMENT_CODE:
        if (source / part).is_dir():
            shutil.rmtree(target / part, ignore_errors=True)
            shutil.copytree(
                source / part, target / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            (target / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / part, target / part)


def freeze(arm: Arm) -> dict[str, str]:
    """Return the packages of an arm's environment: canonical name -> version.

    Args:
      arm: The arm.

    Returns:
      All but the harness itself and the installers.

    Raises:
      ArmFailedError: Its interpreter does not run.
    """
    program = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    found = subprocess.run(
        [arm.python, "-c", program], capture_output=True, text=True, check=False, env=_plain()
    )
    if found.returncode:
        raise ArmFailedError(f"the environment of {arm.label} does not run: {_tail(found.stderr)}")
    names = {canonical(name): version for name, version in json.loads(found.stdout).items()}
    left_out = ("tunix-ppo-harness", *INSTALLERS)
    return {name: version for name, version in names.items() if name not in left_out}


def canonical(name: str) -> str:
    """Return a distribution's name as all tools compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Name the packages that two environments do not share, other than what is judged.

    Args:
      one: Packages of the baseline.
      other: Packages of the candidate.

    Returns:
      A clause each.
    """
    return [
        f"{name} is {one.get(name, 'absent')} in the baseline's environment and "
        f"{other.get(name, 'absent')} in the candidate's"
        for name in sorted({*one, *other} - set(JUDGED))
        if one.get(name) != other.get(name)
    ]


def changed_pins(
    ours: pathlib.Path, theirs: pathlib.Path, installed: Mapping[str, str]
) -> dict[str, str]:
    """Return the versions that another checkout pins otherwise, of what is installed here."""
    mine, other = _pins(ours), _pins(theirs)
    return {
        name: version
        for name, version in other.items()
        if name in installed and mine.get(name) not in (None, version)
    }


def _pins(file: pathlib.Path) -> dict[str, str]:
    lines = file.read_text().splitlines() if file.exists() else []
    found = (line.partition("==") for line in lines if "==" in line)
    return {canonical(name): version.strip() for name, _, version in found}


def environment(pins: Mapping[str, str], folder: pathlib.Path) -> str:
    """Make a virtual environment of exact versions, or take the one made before.

    Args:
      pins: Canonical name -> version; all of them, so that nothing is resolved.
      folder: Where environments are stored.

    Returns:
      Path of its interpreter.

    Raises:
      HarnessError: A package cannot be installed; the last lines name it.
    """
    lines = [f"{name}=={version}" for name, version in sorted(pins.items())]
    key = hashlib.sha256("\n".join([platform.python_version(), *lines]).encode()).hexdigest()[:16]
    made = folder / key
    python = made / "bin" / "python"
    if (made / "complete").exists() and python.exists():
        return os.fspath(python)
    shutil.rmtree(made, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / f"{key}.txt"
    wanted.write_text("\n".join(lines) + "\n")
    uv = shutil.which("uv") or _beside_python("uv")
    if uv:
        _make([uv, "venv", "--quiet", "--python", sys.executable, os.fspath(made)])
        install = [uv, "pip", "install", "--quiet", "--python", os.fspath(python)]
    else:
        _make([sys.executable, "-m", "venv", os.fspath(made)])
        install = [os.fspath(python), "-m", "pip", "install", "--quiet"]
    try:
        _make([*install, "--no-deps", "-r", os.fspath(wanted)])
    except HarnessError:
        shutil.rmtree(made, ignore_errors=True)
        raise
    (made / "complete").touch()
    return os.fspath(python)


def _beside_python(tool: str) -> str | None:
    path = pathlib.Path(sys.executable).with_name(tool)
    return os.fspath(path) if path.exists() else None


def _make(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_plain())
    if done.returncode:
        raise HarnessError(
            f"the other arm's environment cannot be made: `{' '.join(command[:3])} ...`: "
            f"{_tail(done.stderr)}"
        )


def _plain() -> dict[str, str]:
    """This process's environment, without what would mix packages of two arms."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def _tail(text: str) -> str:
    # Python underlines the position with marks of their own lines.
    lines = [line.strip() for line in text.splitlines() if line.strip(" ^~")]
    return " / ".join(lines[-_LAST_LINES:]) or "(no output)"


def _git(root: pathlib.Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise HarnessError(f"git {arguments[0]} failed in {root}: {_tail(done.stderr)}")
    return done.stdout.strip()


class Process(contextlib.AbstractContextManager["Process"]):
    """A worker of an arm."""

    def __init__(
        self,
        arm: Arm,
        arguments: Sequence[str],
        *,
        cache: pathlib.Path | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ):
        """Start it; `wait` is what waits for its first answer.

        Args:
          arm: Whose code and packages it runs.
          arguments: Module and arguments after `python -m`.
          cache: Folder of compiled programs, of this arm alone; None compiles anew.
          timeout: Seconds without an answer after which it is given up.
        """
        self.arm = arm
        self._timeout = timeout
        command = [arm.python, "-P", "-m", *arguments]
        self._child = jsonlines.Child(command, env=settings(arm, cache), cwd=arm.root)

    def __exit__(self, *_: object) -> None:
        """End it, kindly first."""
        self._child.close(grace=30)

    def wait(self, answer: type[_Header]) -> _Header:
        """Wait for the first answer.

        Args:
          answer: Its model.

        Raises:
          ArmFailedError: The process ended, was silent for too long, or answered otherwise.
        """
        with self._failing():
            return answer.model_validate(self._child.receive(timeout=self._timeout))

    def ask(self, order: bench.Order) -> bench.Seconds:
        """Send an order and wait for its answer.

        Raises:
          ArmFailedError: The process ended, was silent for too long, or answered otherwise.
        """
        with self._failing():
            answer = self._child.ask(order.to_json(), timeout=self._timeout)
            return bench.Seconds.model_validate(answer)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except jsonlines.Ended as ended:
            how = f"was silent for {self._timeout:.0f} s" if ended.silent else "ended"
            raise ArmFailedError(
                f"the {self.arm.name} arm, {self.arm.label}, {how} (exit code {ended.code}); its "
                f"last lines: {_tail(ended.output)}"
            ) from None
        except pydantic.ValidationError as error:
            raise ArmFailedError(
                f"the {self.arm.name} arm, {self.arm.label}, answered otherwise than this version "
                f"of the harness asks ({_tail(str(error))})"
            ) from None


def settings(arm: Arm, cache: pathlib.Path | None) -> dict[str, str]:
    """Return the environment variables of an arm's process.

    Args:
      arm: The arm.
      cache: Folder of compiled programs, or None.

    Returns:
      This process's, with the arm's code first, one hash seed, and programs
      for the same instructions on every CPU of the architecture, so that exact
      figures do not depend on which one it is.
    """
    found = _plain()
    found |= {
        "PYTHONPATH": os.fspath(arm.root),
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "OPENBLAS_NUM_THREADS": "1",
    }
    for name in [name for name in found if name.startswith("JAX_COMPILATION_CACHE")]:
        del found[name]
    flags = found.get("XLA_FLAGS", "")
    if platform.machine() == "x86_64" and "--xla_cpu_max_isa" not in flags:
        found["XLA_FLAGS"] = f"{flags} --xla_cpu_max_isa=AVX2".strip()
    if cache is not None:
        found |= {
            "JAX_COMPILATION_CACHE_DIR": os.fspath(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return found
