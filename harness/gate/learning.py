"""The learning tier: does the recipe still learn as well as its reference runs?

In the manner of MLPerf's reference convergence points: a set of reference runs
sets the least mean that a set of new runs may have before a one-sided test
finds that they are worse.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from harness import files
from harness.artifacts import gate as artifact
from harness.artifacts import reading
from harness.artifacts import run as run_artifact
from harness.errors import HarnessError
from harness.gate import records
from harness.gate.verdict import Finding, Verdict

ALPHA = 0.05
FEWEST = 3
_FIGURES = ("reward_area", "accuracy")


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training learned.

    Attributes:
      seed: Its seed.
      reward_area: Mean over the global steps of the mean reward: the area under
        the reward curve, in units of the reward.
      accuracy: Final accuracy, 0..1.
      before: Accuracy before PPO, 0..1.
    """

    seed: int
    reward_area: float
    accuracy: float
    before: float


@dataclasses.dataclass(frozen=True)
class Runs:
    """Trainings of one recipe that differ in their seeds.

    Attributes:
      label: Name in sentences.
      recipe: The recipe, flat, without the seed.
      judged: What they were made with: `google-tunix`, `mode`.
      runs: By seed.
      history: Why the reference was changed, first to last.
    """

    label: str
    recipe: Mapping[str, Any]
    judged: Mapping[str, Any]
    runs: tuple[Run, ...]
    history: tuple[Mapping[str, Any], ...] = ()


def from_results(paths: Sequence[pathlib.Path]) -> Runs:
    """Read the results of several runs.

    Args:
      paths: `result.json` files, or the folders that hold them.

    Returns:
      The runs.

    Raises:
      HarnessError: One cannot be read, has no steps, or they are not of one
        recipe with a seed each.
    """
    files_ = [path / "result.json" if path.is_dir() else path for path in paths]
    found = [(file, reading.read(file, run_artifact.Run)) for file in files_]
    if not found:
        raise HarnessError("there is no run to judge: give the folders of some")
    first = _recipe(found[0][1])
    for file, tree in found[1:]:
        other = _recipe(tree)
        if other != first:
            names = sorted(n for n in {*first, *other} if first.get(n) != other.get(n))
            raise HarnessError(
                f"{file} is of another recipe than {found[0][0]} ({', '.join(names)}): "
                "give runs that differ in their seeds alone"
            )
    runs = sorted((_run(file, tree) for file, tree in found), key=lambda run: run.seed)
    if len({run.seed for run in runs}) < len(runs):
        raise HarnessError("two of the runs have the same seed, so they are one: give others")
    upstream = found[0][1].upstream
    judged = {"google-tunix": upstream.version, "mode": upstream.mode}
    return Runs(f"{len(runs)} runs", first, judged, tuple(runs))


def read(path: pathlib.Path) -> Runs:
    """Read a reference.

    Args:
      path: The file.

    Returns:
      Its runs.

    Raises:
      HarnessError: There is none, or it is of another schema.
    """
    if not path.exists():
        raise HarnessError(
            f"there is no reference {path}: make one with `gate --learning DIR... "
            "--update-baseline --reason WHY`"
        )
    found = reading.read(path, artifact.Reference)
    runs = tuple(Run(**run.model_dump()) for run in found.runs)
    return Runs(path.name, found.recipe, found.judged, runs, tuple(found.history))


def write(path: pathlib.Path, runs: Runs, reason: str) -> None:
    """Take runs as the reference from now on.

    Args:
      path: The file; what is there has its history.
      runs: The runs.
      reason: Why they are right.

    Raises:
      HarnessError: No reason is given, there are too few, or the file cannot be
        read or written.
    """
    reason = " ".join(reason.split())
    if not reason:
        raise HarnessError("a reference is changed for a reason only: give --reason WHY")
    if len(runs.runs) < FEWEST:
        raise HarnessError(
            f"{len(runs.runs)} run(s) are no reference: give those of {FEWEST} seeds or more"
        )
    before = read(path).history if path.exists() else ()
    tree = artifact.Reference(
        schema=artifact.LEARNING_SCHEMA,
        recipe=dict(sorted(runs.recipe.items())),
        judged=dict(runs.judged),
        runs=[artifact.LearnedRun(**dataclasses.asdict(run)) for run in runs.runs],
        history=[*map(dict, before), {"reason": reason, **runs.judged}],
    ).to_json()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, json.dumps(tree, indent=1) + "\n")


def least_mean(reference: Sequence[float], count: int, alpha: float = ALPHA) -> float:
    """Return the least mean of new runs that is not worse than the reference.

    The spread is taken from the reference, so that the limit is known before
    the new runs are made: mean - t(1 - alpha, n - 1) sd sqrt(1/n + 1/count).

    Args:
      reference: [n] values, 3 or more.
      count: Number of new runs.
      alpha: Chance that runs as good as the reference fall below it.

    Returns:
      The limit; the mean itself where all reference values are equal.
    """
    found = np.asarray(reference, float)
    reach = float(stats.t.ppf(1 - alpha, len(found) - 1))
    spread = float(np.std(found, ddof=1)) * math.sqrt(1 / len(found) + 1 / count)
    return float(np.mean(found)) - reach * spread


def compare(reference: Runs, candidate: Runs) -> tuple[Finding, ...]:
    """Compare new runs with the reference.

    Args:
      reference: Stored runs.
      candidate: New ones.

    Returns:
      A finding for the reward area and one for the final accuracy. If the
      recipes differ there is one, NOT COMPARABLE, that names where.
    """
    names = {*reference.recipe, *candidate.recipe}
    differing = [
        f"{name} is {reference.recipe.get(name, 'not reported')} in {reference.label} and "
        f"{candidate.recipe.get(name, 'not reported')} in {candidate.label}"
        for name in sorted(names)
        if reference.recipe.get(name) != candidate.recipe.get(name)
    ]
    if differing:
        return (Finding("learning", "recipe", Verdict.NOT_COMPARABLE, "; ".join(differing)),)
    if len(reference.runs) < FEWEST or len(candidate.runs) < FEWEST:
        return (
            Finding(
                "learning",
                "runs",
                Verdict.INCONCLUSIVE,
                f"{len(candidate.runs)} run(s) against {len(reference.runs)} decide nothing: "
                f"{FEWEST} seeds of each are the fewest",
            ),
        )
    alpha = ALPHA / len(_FIGURES)
    return tuple(_finding(figure, reference, candidate, alpha) for figure in _FIGURES)


def _finding(figure: str, reference: Runs, candidate: Runs, alpha: float) -> Finding:
    old = [getattr(run, figure) for run in reference.runs]
    new = [getattr(run, figure) for run in candidate.runs]
    limit, mean = least_mean(old, len(new), alpha), float(np.mean(new))
    text = (
        f"mean of {len(new)} runs {mean:.3f}, of {len(old)} reference runs "
        f"{float(np.mean(old)):.3f}; the least that passes is {limit:.3f}"
    )
    figures = {
        "mean": mean,
        "reference_mean": float(np.mean(old)),
        "reference_spread": float(np.std(old, ddof=1)),
        "least": limit,
        "runs": new,
    }
    verdict = Verdict.PASS if mean >= limit else Verdict.FAIL
    untrained = float(np.mean([run.before for run in reference.runs]))
    if figure == "accuracy" and verdict == Verdict.PASS and limit <= untrained:
        verdict = Verdict.INCONCLUSIVE
        text += f", which is no more than before training ({untrained:.3f}): give more runs"
    return Finding("learning", figure, verdict, text, figures)


def _recipe(result: run_artifact.Run) -> dict[str, Any]:
    # Where figures are sent has no part in what is learned.
    groups = {name: group for name, group in result.recipe.items() if name != "metrics"}
    flat = records.flat(groups, "recipe")
    flat.pop("recipe.seed", None)
    return flat


def _run(file: pathlib.Path, result: run_artifact.Run) -> Run:
    rewards = [step.reward_mean for step in result.steps]
    if not rewards:
        raise HarnessError(f"{file} has no step: give a run that trained")
    finite = [each for each in rewards if each is not None]
    if len(finite) < len(rewards):
        raise HarnessError(f"{file} has steps without a finite reward: give a run without")
    if not isinstance(seed := result.recipe.get("seed"), int):
        raise HarnessError(f"{file} does not name the seed of its recipe: write it anew")
    return Run(seed, float(np.mean(finite)), result.trained.accuracy, result.baseline.accuracy)
