"""What a run found, and its files."""

import dataclasses
import json
import math
import pathlib
from typing import Any, cast

from harness import errors, evaluation, files, upstream
from harness import recipe as recipe_lib
from harness.artifacts import reading
from harness.artifacts import run as artifact
from harness.models import warm_start as warm_start_lib
from harness.run_warning import RunWarning
from harness.training import run_dir


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run found; `result.json` holds it.

    Attributes:
      recipe: What was run.
      environment: Versions and devices.
      summary: What the arithmetic said beforehand.
      mode: `patched` or `stock`.
      fixes: Ids of the fixes that were applied.
      problems: Number of problems of each split.
      long_prompts: Problems of each split that were dropped for their length.
      warm_start: What supervision did; none for weights from a checkpoint.
      baseline: Accuracy before PPO.
      trained: Accuracy of the restored checkpoint.
      steps: Figures of each global step.
      phases: Seconds, seconds of compilation and peak device bytes.
      checkpoint_step: Optimizer step of the checkpoint that was restored.
      resumed_at: Optimizer step from which the process that finished the run
        went on; none if one process did it all.
      model: What was loaded from a checkpoint, as `harness.models.probe.describe` says.
      warnings: What was found on the way that did not stop the run.
    """

    recipe: recipe_lib.Recipe
    environment: dict[str, Any]
    summary: recipe_lib.Summary
    mode: upstream.Mode
    fixes: tuple[str, ...]
    problems: dict[str, int]
    long_prompts: dict[str, int]
    warm_start: warm_start_lib.WarmStart | None
    baseline: evaluation.Evaluation
    trained: evaluation.Evaluation
    steps: list[dict[str, float]]
    phases: list[dict[str, Any]]
    checkpoint_step: int
    resumed_at: int | None = None
    model: dict[str, Any] | None = None
    warnings: tuple[RunWarning, ...] = ()

    @property
    def gained(self) -> bool:
        """Whether the accuracy rose above its interval before PPO."""
        return self.trained.accuracy > self.baseline.accuracy_ci95[1]

    def to_dict(self) -> dict[str, Any]:
        """Return `result.json` as plain JSON values of `harness.artifacts.run.Run`."""
        tree = {
            "schema": artifact.SCHEMA,
            "recipe": recipe_lib.to_dict(self.recipe),
            "environment": self.environment,
            "summary": self.summary.to_dict(),
            "upstream": {
                "mode": self.mode,
                "version": upstream.installed_version(),
                "fixes": list(self.fixes),
            },
            "data": {"problems": self.problems, "long_prompts": self.long_prompts},
            "warm_start": self.warm_start and dataclasses.asdict(self.warm_start),
            "baseline": self.baseline.to_dict(),
            "trained": self.trained.to_dict(),
            "steps": [
                {name: value if math.isfinite(value) else None for name, value in row.items()}
                for row in self.steps
            ],
            "phases": self.phases,
            "checkpoint_step": self.checkpoint_step,
            "resumed_at": self.resumed_at,
            "model": self.model,
            "warnings": [dataclasses.asdict(each) for each in self.warnings],
        }
        return artifact.Run.model_validate(tree).to_json()


def write(result: Result, out: pathlib.Path) -> None:
    """Write `samples.jsonl`, then `result.json`, each whole or not at all.

    Args:
      result: What was found.
      out: An existing folder.

    Raises:
      HarnessError: The folder cannot be written.
    """
    samples = (*result.baseline.samples, *result.trained.samples)
    lines = [json.dumps(dataclasses.asdict(sample), ensure_ascii=False) for sample in samples]
    files.write_whole(out / "samples.jsonl", "\n".join(lines) + "\n")
    files.write_whole(out / "result.json", json.dumps(result.to_dict(), indent=2) + "\n")


def read(folder: run_dir.RunDirectory) -> Result:
    """Read the result of a run that is complete.

    Raises:
      HarnessError: It cannot be read.
    """
    path = folder.out / "result.json"
    try:
        found = reading.read(path, artifact.Run)
        stages = [folder.stage(name) for name in ("baseline", "trained")]
        baseline, trained = [evaluation.Evaluation.from_saved(each or {}) for each in stages]
        recipe = folder.identity.recipe
        return Result(
            recipe=recipe,
            environment=found.environment.to_json(),
            summary=recipe_lib.summarize(recipe),
            mode=cast(upstream.Mode, found.upstream.mode),
            fixes=tuple(found.upstream.fixes),
            problems=found.data.problems,
            long_prompts=found.data.long_prompts,
            warm_start=warm_start_lib.WarmStart(**found.warm_start) if found.warm_start else None,
            baseline=baseline,
            trained=trained,
            steps=[each.to_json() for each in found.steps],
            phases=[each.to_json() for each in found.phases],
            checkpoint_step=found.checkpoint_step,
            resumed_at=found.resumed_at,
            model=found.model,
            warnings=tuple(RunWarning(each.id, each.text) for each in found.warnings),
        )
    except (errors.HarnessError, OSError, ValueError, KeyError, TypeError) as error:
        raise errors.HarnessError(
            f"{path} and what lies beside it cannot be read ({error}): remove {path} and go on "
            "by --resume"
        ) from None
