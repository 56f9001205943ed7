"""The recipe, top to bottom: evaluate, train by PPO, restore, evaluate again.

Every step is a function that serves alone; `run` is the order in which the
reference recipe takes them.
"""

import contextlib
import dataclasses
import functools
import gc
import json
import math
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
from rich.console import Console
from rich.progress import Progress
from tunix.models.gemma3 import model as gemma3

from harness import (
    data,
    errors,
    evaluation,
    files,
    models,
    progress,
    reward_trial,
    rewards,
    training,
    upstream,
)
from harness import recipe as recipe_lib
from harness import tokenizer as tokenizer_lib
from harness.artifacts import run as artifact
from harness.measure import environment, memory, parts
from harness.measure.phases import Phases
from harness.models import kaggle, probe
from harness.models import warm_start as warm_start_lib
from harness.run_warning import RunWarning


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
        """Return `result.json` as plain JSON values."""
        return {
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


def run(
    recipe: recipe_lib.Recipe,
    out: pathlib.Path,
    *,
    mode: upstream.Mode = "patched",
    fixes: str = "all",
    console: Console | None = None,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    continue_on_nan: bool = False,
    log_probs: pathlib.Path | None = None,
    part: parts.Part = parts.unmeasured,
) -> Result:
    """Run the recipe from data to the second evaluation.

    Args:
      recipe: What to run.
      out: Folder to make, for `result.json`, `samples.jsonl`, `tensorboard/`,
        `checkpoints/` and `progress/`; it must be empty if it is there.
      mode: `patched`, or `stock` for Tunix exactly as installed.
      fixes: Which fixes are in place: `all`, `none`, `all,-ID` or `ID,ID`.
      console: Where progress goes; bars are shown only on a terminal.
      resume: Whether to go on with the run that `out` holds, if any. Stages
        that it finished are not done again, training goes on from its newest
        whole checkpoint.
      stop: Asked between batches whether to save and end.
      continue_on_nan: Whether to go on past figures that are not finite.
      log_probs: File of `make-log-probs` to which the policy is held before anything.
      part: Measures phases, and the pieces of a training step, by name.

    Returns:
      The result, which is also written.

    Raises:
      Terminated: `stop` said so; the run can be gone on with.
      RunStopped: The run cannot go on now; what it had is kept.
      HarnessError: Something given cannot be used; nothing is left in `out`.
    """
    models.one_host()
    upstream.check_backends(recipe)
    console = console or Console(quiet=True)
    show = _Show(console)
    phases = Phases(part=part)
    in_place = upstream.choose_fixes(mode, fixes)
    options = training.Options(
        stop=stop,
        continue_on_nan=continue_on_nan,
        report=lambda line: console.print(line, markup=False, soft_wrap=True),
        part=part,
    )
    fingerprint = environment.fingerprint()
    with progress.claim(
        out,
        recipe,
        mode,
        fingerprint,
        fixes=fixes,
        resume=resume,
        worth_keeping=("checkpoints/sealed/*.json",),
    ) as kept:
        if (out / "result.json").exists():
            options.report(f"the run in {out} is complete: nothing is done again")
            return _read(kept)
        if kept.resumed:
            _compare_environments(kept, fingerprint, options)

        def doing(stage: str) -> None:
            options.check(kept)
            kept.now(stage)

        described = None
        with phases("prepare"), show.step("data, tokenizer and models"):
            doing("prepare")
            reward_fn = rewards.build(recipe.reward)
            mesh = models.make_mesh(recipe.sharding)
            local = kaggle.local(recipe, options.report)
            tokenizer = tokenizer_lib.load(local)
            dataset = data.load(recipe, tokenizer)
            for each in dataset.warnings:
                options.report(f"warning: {each.text}")
            first_batch: Any = dataset.train[0]
            tried = reward_trial.try_out(recipe.reward, first_batch)
            if tried is not None:
                options.report(tried)
            with part("load"):
                policy = make_policy(local, mesh, options.report)
            if recipe.model.weights == "checkpoint":
                with part("checksum"):
                    described = probe.describe(policy)
                kept.keep_stage("model", described)
                options.report(
                    f"loaded {len(described['arrays'])} arrays, {described['parameters']:,} "
                    f"parameters, {', '.join(described['dtypes'])}, "
                    f"sha256 {described['sha256'][:12]}"
                )
            if log_probs is not None:
                with part("compare log-probs"):
                    distance = probe.compare(policy, tokenizer, mesh, log_probs)
                options.report(f"log-probs are within {distance:.2g} nats of {log_probs}")

        warm = None
        if recipe.model.weights == "random" and recipe.warm_start.max_steps:
            with phases("warm_start"), show.bar("warm start", recipe.warm_start.max_steps) as bar:
                doing("warm_start")
                problems = data.supervised_problems(recipe)
                warm = warm_start_lib.warm_start(
                    recipe, policy, tokenizer, problems, mesh, lambda step, _: bar(step)
                )
        # A warm start changes random weights alone.
        _same_policy(kept, described["sha256"] if described else models.checksum(policy))

        with phases("build"), show.step("LoRA actor and critic"):
            doing("build")
            actor = models.build_actor(recipe, policy, mesh)
            critic = models.build_critic(recipe, policy, mesh)
            generator = upstream.Generator(recipe, actor, tokenizer, mesh)

        def evaluated(stage: str) -> evaluation.Evaluation:
            if (found := kept.stage(stage)) is not None:
                return evaluation.Evaluation.kept(found)
            problems = _test_problems(recipe, dataset)
            with phases(stage), show.bar(stage, problems) as bar:

                def on_batch(problems_done: int) -> None:
                    bar(problems_done)
                    options.check(kept)

                doing(stage)
                try:
                    made = evaluation.evaluate(
                        recipe, generator, dataset.test, stage=stage, on_batch=on_batch
                    )
                except evaluation.ScoringFailedError as error:
                    first, last = error.problems
                    where = f"evaluation {stage}, test problems {first} to {last}"
                    raise reward_trial.stopped(
                        out, f"{stage}-{first}", where, error, error.batch
                    ) from error
            kept.keep_stage(stage, made.keep())
            return made

        baseline = evaluated("baseline")

        with phases("train"), show.step("PPO"):
            doing("train")
            trained = training.train(
                recipe,
                dataset,
                functools.partial(
                    upstream.make_cluster,
                    mesh=mesh,
                    actor=actor,
                    critic=critic,
                    reference=policy if recipe.ppo.beta > 0 else None,
                    tokenizer=tokenizer,
                ),
                reward_fn,
                fixes=in_place,
                kept=kept,
                options=options,
            )

        with phases("restore"), show.step("checkpoint"):
            doing("restore")
            # A fresh actor, so that the second evaluation sees only what was
            # saved; critic, optimizers and their memory are given back first.
            del critic, actor
            gc.collect()
            restored = models.build_actor(recipe, policy, mesh)
            checkpoint_step = upstream.restore_actor(restored, out)
            generator.model = restored

        after = evaluated("trained")

        result = Result(
            recipe=recipe,
            environment=fingerprint,
            summary=recipe_lib.summarize(
                recipe, overshoots=upstream.standing("max-steps-overshoot")
            ),
            mode=mode,
            fixes=in_place.ids,
            problems=dict(dataset.problems),
            long_prompts=dict(dataset.long_prompts),
            warm_start=warm,
            baseline=baseline,
            trained=after,
            steps=trained.steps,
            phases=phases.to_list(),
            checkpoint_step=checkpoint_step,
            resumed_at=trained.resumed_at,
            model=described,
            warnings=(*dataset.warnings, *trained.warnings, *_not_scored(baseline, after)),
        )
        write(result, out)
        kept.now("done")
        return result


def make_policy(
    recipe: recipe_lib.Recipe,
    mesh: jax.sharding.Mesh,
    report: Callable[[str], None] = warnings.warn,
) -> gemma3.Gemma3:
    """Return the policy before LoRA: random, or from the checkpoint.

    Args:
      recipe: The model and the seed.
      mesh: Devices to lay the weights over.
      report: Called with a line where the checkpoint's dtype is not the model's.

    Returns:
      The model.

    Raises:
      HarnessError: The checkpoint cannot be used.
    """
    if recipe.model.weights == "checkpoint":
        return models.load_gemma(kaggle.local(recipe, report).model, mesh, report)
    return models.random_gemma(recipe.model, mesh, recipe.seed)


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


def _test_problems(recipe: recipe_lib.Recipe, dataset: data.Dataset) -> int:
    return min(
        dataset.problems["test"], recipe.data.num_test_batches * recipe.batching.rollout_batch_size
    )


def _read(kept: progress.Progress) -> Result:
    """Read the result of a run that is complete."""
    path = kept.out / "result.json"
    try:
        tree = json.loads(path.read_text())
        stages = [kept.stage(name) for name in ("baseline", "trained")]
        baseline, trained = [evaluation.Evaluation.kept(each or {}) for each in stages]
        recipe = kept.identity.recipe
        return Result(
            recipe=recipe,
            environment=tree["environment"],
            summary=recipe_lib.summarize(recipe),
            mode=tree["upstream"]["mode"],
            fixes=tuple(tree["upstream"]["fixes"]),
            problems=tree["data"]["problems"],
            long_prompts=tree["data"]["long_prompts"],
            warm_start=tree["warm_start"] and warm_start_lib.WarmStart(**tree["warm_start"]),
            baseline=baseline,
            trained=trained,
            steps=tree["steps"],
            phases=tree["phases"],
            checkpoint_step=tree["checkpoint_step"],
            resumed_at=tree["resumed_at"],
            model=tree["model"],
            warnings=tuple(RunWarning(**each) for each in tree.get("warnings", ())),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.HarnessError(
            f"{path} and what lies beside it cannot be read ({error}): remove {path} and go on "
            "by --resume"
        ) from None


def _not_scored(*found: evaluation.Evaluation) -> list[RunWarning]:
    """Return a warning for samples whose score was not finite."""
    count = sum(sample.score is None for each in found for sample in each.samples)
    text = (
        f"the reward was not finite for {count} completion(s) of test problems: they count as "
        "neither right nor well-formed"
    )
    return [RunWarning("evaluation-not-finite", text)] if count else []


def _compare_environments(
    kept: progress.Progress, now: dict[str, Any], options: training.Options
) -> None:
    """Return under what else the run began: it may then end otherwise than it would have."""
    for name in sorted(now):
        if now[name] != kept.identity.environment.get(name):
            options.report(
                f"the run began with another {name}: {kept.identity.environment.get(name)}, "
                f"now {now[name]}; its figures may differ in the last digits"
            )


def _same_policy(kept: progress.Progress, sha256: str) -> None:
    """Refuse to go on with other weights than those that the run began with."""
    found = {"sha256": sha256}
    known = kept.stage("policy")
    if known is None:
        kept.keep_stage("policy", found)
    elif known != found:
        raise errors.RunStopped(
            f"the policy before PPO has checksum {found['sha256'][:12]}, the run in {kept.out} "
            f"began with {known['sha256'][:12]}: give the checkpoint and the libraries that it "
            "began with, or begin anew"
        )


class _Show:
    """Says what is going on: bars on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console):
        self._console = console

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        self._console.print(f"[bold]{name}[/bold]  [dim]{memory.describe()}[/dim]")
        yield

    @contextlib.contextmanager
    def bar(self, name: str, total: int) -> Iterator[Any]:
        if not self._console.is_terminal:
            with self.step(name):
                yield lambda done: None
            return
        with Progress(console=self._console, transient=True) as progress:
            task = progress.add_task(name, total=total)
            yield lambda done: progress.update(task, completed=done)
