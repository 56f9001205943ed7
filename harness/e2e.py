"""The reference recipe on a chip: checked, planned, run, figures held to what they should be."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import jax

from harness import doctor, errors, footprint, hardware, training
from harness import recipe as recipe_lib
from harness.measure import memory
from harness.models import kaggle


@dataclasses.dataclass(frozen=True)
class Figure:
    """Something measured, and what it should be.

    Attributes:
      name: What it is.
      measured: As a person reads it.
      expected: The same; None where nothing is expected of it.
      holds: Whether it is as expected; None where nothing is expected, or
        nothing could be measured.
    """

    name: str
    measured: str
    expected: str | None = None
    holds: bool | None = None


def recipe_for(
    recipe: recipe_lib.Recipe, device: str, max_batches: int | None
) -> recipe_lib.Recipe:
    """Return the recipe as the sessions run it.

    Args:
      recipe: The reference's, or a change of it.
      device: `tpu`, or `gpu`, which takes bfloat16.
      max_batches: Batches trained on and evaluated at most, for a smoke run.

    Returns:
      The recipe, its weights from Kaggle where none are named.
    """
    changes = []
    model = recipe.model
    if model.weights == "checkpoint" and model.checkpoint is None:
        changes.append(f'model.checkpoint="{kaggle.GEMMA3_1B}"')
    if device == "gpu":
        changes.append("model.dtype=bfloat16")
    if max_batches is not None:
        changes += [
            f"data.num_batches={min(recipe.data.num_batches, max_batches)}",
            f"data.num_test_batches={min(recipe.data.num_test_batches, max_batches)}",
        ]
    return recipe_lib.replace(recipe, *changes)


def examine(recipe: recipe_lib.Recipe, *, force: bool = False) -> doctor.Report:
    """Check chip, memory, versions, credentials and data before anything is downloaded.

    Args:
      recipe: What is to run.
      force: Whether to go on where there is not enough memory.

    Returns:
      All checks.

    Raises:
      HarnessError: Something that the recipe needs is missing.
    """
    if not force:
        footprint.check(recipe, footprint.capacity(recipe))
    report = doctor.examine(recipe)
    missing = [
        check
        for check in report.checks
        if check.status == "missing" and not (force and check.name == "memory")
    ]
    if missing:
        raise errors.HarnessError(f"{missing[0].name}: {missing[0].detail}")
    return report


def chip() -> str | None:
    """Return the name of this machine's slice as `plan` knows it, None if it does not."""
    devices = jax.devices()
    found = hardware.slice_of(devices[0].device_kind, len(devices))
    return None if found is None else found.name


def plan(recipe: recipe_lib.Recipe, name: str, mode: str) -> dict[str, Any] | None:
    """Ask `plan` whether the recipe fits a slice.

    It is asked in a process of its own: it compiles for a TPU that it takes
    for absent, which a process that holds one cannot.

    Args:
      recipe: The recipe.
      name: The slice, such as `v6e-1`.
      mode: `patched` or `stock`.

    Returns:
      What `plan --json` writes; None if this installation has no `plan`.

    Raises:
      HarnessError: The recipe does not fit, or `plan` ended without an answer.
    """
    if importlib.util.find_spec("harness.plan") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        toml, found = pathlib.Path(folder, "recipe.toml"), pathlib.Path(folder, "plan.json")
        toml.write_text(recipe_lib.to_toml(recipe))
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "harness", "plan", "--preset", "gemma3-1b"),
                *("--recipe", str(toml), "--chip", name, "--upstream", mode),
                *("--json", str(found)),
            ],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        if ended.returncode == 0:
            return json.loads(found.read_text())
        if ended.returncode == 1 and found.exists():
            tight = [
                each["name"] for each in json.loads(found.read_text())["phases"] if not each["fits"]
            ]
            raise errors.HarnessError(
                f"the recipe does not fit {name} ({', '.join(tight)}): see `python -m harness plan "
                f"--chip {name}` for what would"
            )
    last = (ended.stderr.strip().splitlines() or ["no output"])[-1]
    raise errors.HarnessError(f"whether the recipe fits {name} could not be found out: {last}")


def figures(result: training.Result, planned: Mapping[str, Any] | None) -> list[Figure]:
    """Compare what a run measured with what it should be.

    Args:
      result: The run.
      planned: What `plan` found, None if it was not asked.

    Returns:
      The figures; of times nothing is expected.
    """
    before, after, expected = result.baseline, result.trained, result.summary
    found = [
        _accuracy("accuracy before PPO", before.accuracy, before.accuracy_ci95),
        _accuracy("accuracy after PPO", after.accuracy, after.accuracy_ci95, before.accuracy_ci95),
        _accuracy(
            "format accuracy before PPO", before.format_accuracy, before.format_accuracy_ci95
        ),
        _accuracy(
            "format accuracy after PPO",
            after.format_accuracy,
            after.format_accuracy_ci95,
            before.format_accuracy_ci95,
        ),
        _equal("test problems", after.total, expected.test_problems),
        _equal("global steps", len(result.steps), expected.global_steps),
        _equal(
            "optimizer step of the checkpoint", result.checkpoint_step, expected.optimizer_steps
        ),
    ]
    seconds = {each["name"]: each["seconds"] for each in result.phases}
    # One process may not have done it all.
    if result.resumed_at is None and "train" in seconds:
        drawn = sum(row["completion_tokens_mean"] for row in result.steps)
        rate = drawn * result.recipe.batching.rollout_batch_size / seconds["train"]
        found.append(Figure("completion tokens per second of training", f"{rate:.1f}"))
    found += [
        Figure(
            f"seconds: {each['name']}",
            f"{each['seconds']:.1f} ({each['compile_seconds']:.1f} compiling)",
        )
        for each in result.phases
    ]
    peaks = [each["peak_bytes"] for each in result.phases if each["peak_bytes"] is not None]
    limit = next((each.limit for each in memory.device_memory() if each.limit), None)
    compiled = (
        max((each["peak_bytes"] for each in planned["phases"]), default=None) if planned else None
    )
    found.append(_peak(max(peaks, default=None), compiled, limit))
    return found


def _accuracy(
    name: str,
    value: float,
    interval: tuple[float, float],
    before: tuple[float, float] | None = None,
) -> Figure:
    measured = f"{value:.3f} ({interval[0]:.3f} .. {interval[1]:.3f})"
    if before is None:
        return Figure(name, measured)
    # PPO of a few batches need not gain; it must not have lost.
    return Figure(name, measured, f"not below {before[0]:.3f}", value >= before[0])


def _equal(name: str, measured: int, expected: int | None) -> Figure:
    if expected is None:
        return Figure(name, str(measured))
    return Figure(name, str(measured), str(expected), measured == expected)


def _peak(measured: int | None, compiled: int | None, limit: int | None) -> Figure:
    def size(count: int) -> str:
        return f"{count / 2**30:.2f} GiB"

    expected = [
        *([f"{size(compiled)} compiled"] if compiled is not None else []),
        *([f"at most {size(limit)}"] if limit is not None else []),
    ]
    return Figure(
        "peak device memory",
        "not reported by this device" if measured is None else size(measured),
        ", ".join(expected) or None,
        None if measured is None or limit is None else measured <= limit,
    )
