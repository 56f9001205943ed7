"""What this machine has, and what a recipe would miss on it."""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
from packaging.requirements import Requirement

from harness import downloads, footprint, prompt_preview
from harness.errors import HarnessError
from harness.measure import environment, memory
from harness.recipe import Recipe

DISTRIBUTION = "tunix-ppo-harness"
PYTHON = (3, 11)

Status = Literal["ok", "warn", "missing"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
      name: What was looked at.
      status: `ok`; `warn` where something is amiss that does not stop the
        recipe; `missing` where it does.
      detail: What was found, and what remedies it. Never holds a credential.
    """

    name: str
    status: Status
    detail: str


@dataclasses.dataclass(frozen=True)
class Report:
    """All that was looked at.

    Attributes:
      checks: In the order in which to read them.
    """

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is missing."""
        return all(check.status != "missing" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: `ok`, and `checks` as objects."""
        return {"ok": self.ok, "checks": [dataclasses.asdict(check) for check in self.checks]}


def examine(recipe: Recipe | None = None, *, defects: Sequence[Check] = ()) -> Report:
    """Look at interpreter, packages, devices, memory, credentials and data.

    Nothing is downloaded, and no credential is read: only whether there is
    one. The trainer is not imported.

    Args:
      recipe: The recipe that is to run. What it needs and is not there is
        `missing`; without a recipe, what only some recipes need is a `warn`.
      defects: Checks of the installed Tunix, put last.

    Returns:
      The report.
    """
    return Report(
        (
            _python(),
            *_packages(),
            _libtpu(),
            *_devices_and_memory(recipe),
            _kaggle(recipe, os.environ),
            _data(recipe),
            *_prompt(recipe),
            *defects,
        )
    )


def require(device: str) -> None:
    """Refuse a machine without the device.

    Args:
      device: `tpu` or `gpu`.

    Raises:
      HarnessError: There is none.
    """
    try:
        devices = jax.devices()
        found, here = devices[0].platform, f"{len(devices)} x {devices[0].device_kind}"
    except RuntimeError as error:
        found, here = "none", str(error).partition("\n")[0]
    if found != device:
        raise HarnessError(
            f"no {device.upper()} is here ({here}): `nox -s cpu_e2e` runs the tiny recipe on the "
            "CPU, `nox -s plan` says whether the real one fits a TPU that is not here"
        )


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info >= PYTHON:
        return Check("python", "ok", found)
    needed = ".".join(map(str, PYTHON))
    return Check("python", "missing", f"{found} found: install Python {needed} or newer")


def _packages() -> list[Check]:
    try:
        texts = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        detail = "not installed, so supported versions are unknown: pip install -e ."
        return [Check(DISTRIBUTION, "warn", detail)]
    requirements = [Requirement(text) for text in texts]
    return [
        package(requirement)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]


def package(requirement: Requirement) -> Check:
    """Compare an installed package with the range that is supported.

    Args:
      requirement: A name and a range.

    Returns:
      `missing` where the package is absent, `warn` where it is outside the
      range, else `ok`.
    """
    found = environment.versions([requirement.name])[requirement.name]
    supported = str(requirement.specifier) or "any version"
    if found is None:
        detail = f"not installed: pip install '{requirement}'"
        return Check(requirement.name, "missing", detail)
    if not requirement.specifier.contains(found, prereleases=True):
        detail = f"{found} found, supported is {supported}: pip install '{requirement}'"
        return Check(requirement.name, "warn", detail)
    return Check(requirement.name, "ok", f"{found} ({supported})")


def _libtpu() -> Check:
    if importlib.util.find_spec("libtpu") is None:
        detail = (
            "not found: without it nothing runs on a TPU or is compiled for one; "
            "pip install -e '.[tpu]' on a TPU, '.[tpu-compiler]' elsewhere"
        )
        return Check("libtpu", "warn", detail)
    return Check("libtpu", "ok", environment.versions(["libtpu"])["libtpu"] or "found")


def _devices_and_memory(recipe: Recipe | None) -> tuple[Check, Check]:
    try:
        devices = jax.devices()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        detail = f"{reason}: set JAX_PLATFORMS to a backend that is here, as cpu is everywhere"
        return (
            Check("devices", "missing", detail),
            Check("memory", "warn", memory.describe_host()),
        )
    detail = f"{jax.default_backend()}: {len(devices)} x {devices[0].device_kind}"
    needed = 1 if recipe is None else recipe.sharding.fsdp * recipe.sharding.tp
    status: Status = "ok"
    if needed > len(devices):
        status = "missing"
        detail += f"; the recipe's sharding needs {needed}: lower sharding.fsdp or sharding.tp"
    return Check("devices", status, detail), _memory(recipe)


def _memory(recipe: Recipe | None) -> Check:
    here = memory.describe().replace("\n", "; ")
    if recipe is None:
        return Check("memory", "ok", here)
    too_little = footprint.problem(recipe, footprint.capacity(recipe))
    if too_little is not None:
        return Check("memory", "missing", too_little)
    return Check("memory", "ok", f"{here}; the recipe needs at least {footprint.least(recipe)}")


def _kaggle(recipe: Recipe | None, env: Mapping[str, str]) -> Check:
    """Look where kagglehub looks, at names and sizes alone."""
    check = functools.partial(Check, "kaggle credentials")
    folder = pathlib.Path.home() / ".kaggle"
    legacy = pathlib.Path(env.get("KAGGLE_CONFIG_DIR") or folder) / "kaggle.json"
    if env.get("KAGGLE_API_TOKEN"):
        return check("ok", "KAGGLE_API_TOKEN is set")
    if any(_has_bytes(folder / name) for name in ("access_token", "access_token.txt")):
        return check("ok", "an access token file is there")
    if env.get("KAGGLE_USERNAME") and env.get("KAGGLE_KEY"):
        return check("ok", "KAGGLE_USERNAME and KAGGLE_KEY are set")
    if _has_bytes(legacy):
        return check("ok", "kaggle.json is there")
    needed = (
        recipe is not None
        and recipe.model.weights == "checkpoint"
        and (recipe.model.checkpoint or "kaggle:").startswith("kaggle:")
    )
    return check(
        "missing" if needed else "warn",
        "none found, so Gemma's weights cannot be downloaded: set KAGGLE_API_TOKEN, or "
        "KAGGLE_USERNAME and KAGGLE_KEY, or name a folder of weights in model.checkpoint",
    )


def _prompt(recipe: Recipe | None) -> list[Check]:
    if recipe is None:
        return []
    found = prompt_preview.preview(recipe)
    return [Check("prompt", found.status, found.text)]


def _has_bytes(path: pathlib.Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _data(recipe: Recipe | None) -> Check:
    kind, _, named = ("tfds" if recipe is None else recipe.data.source).partition(":")
    if kind == "arithmetic":
        return Check("data", "ok", "the recipe asks the built-in problems")
    if "://" in named:
        return Check("data", "warn", f"{named} is remote: not looked at")
    folder = pathlib.Path(named).expanduser() if named else downloads.gsm8k_folder()
    if kind == "jsonl":
        if all(_has_bytes(folder / f"{split}.jsonl") for split in ("train", "test")):
            return Check("data", "ok", f"GSM8K is in {folder}")
        detail = f"no train.jsonl and test.jsonl in {folder}: name their folder in data.source"
        return Check("data", "missing", detail)
    # TFDS renames a folder to its version once it is whole.
    if any(folder.glob("gsm8k/*/dataset_info.json")):
        return Check("data", "ok", f"GSM8K is in {folder}")
    detail = (
        f"GSM8K is not in {folder}: a run downloads it there; without internet, name a folder "
        "that has train.jsonl and test.jsonl as jsonl:DIR"
    )
    return Check("data", "warn", detail)
