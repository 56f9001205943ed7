"""The recipe, top to bottom: evaluate, train by PPO, restore, evaluate again.

Every step is a function that serves alone; `run` is the order in which the
reference recipe takes them.
"""

import contextlib
import dataclasses
import gc
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
from rich.console import Console
from rich.progress import Progress
from tunix.models.gemma3 import model as gemma3

from harness import accounting, data, errors, evaluation, files, models, rewards, upstream
from harness import recipe as recipe_lib
from harness import tokenizer as tokenizer_lib
from harness.measure import environment, memory
from harness.measure.phases import Phases
from harness.models import warm_start as warm_start_lib

SCHEMA = "tunix-ppo-harness/result/1"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run found; `result.json` holds it.

    Attributes:
      recipe: What was run.
      environment: Versions and devices.
      account: What the arithmetic said beforehand.
      mode: `mended` or `stock`.
      mends: Ids of the mends that were applied.
      problems: Number of problems of each split.
      long_prompts: Problems of each split that were dropped for their length.
      warm_start: What supervision did; none for weights from a checkpoint.
      baseline: Accuracy before PPO.
      trained: Accuracy of the restored checkpoint.
      steps: Figures of each global step.
      phases: Seconds, seconds of compilation and peak device bytes.
      checkpoint_step: Optimizer step of the checkpoint that was restored.
    """

    recipe: recipe_lib.Recipe
    environment: dict[str, Any]
    account: accounting.Account
    mode: upstream.Mode
    mends: tuple[str, ...]
    problems: dict[str, int]
    long_prompts: dict[str, int]
    warm_start: warm_start_lib.WarmStart | None
    baseline: evaluation.Evaluation
    trained: evaluation.Evaluation
    steps: list[dict[str, float]]
    phases: list[dict[str, Any]]
    checkpoint_step: int

    @property
    def gained(self) -> bool:
        """Tells whether the accuracy rose above its interval before PPO."""
        return self.trained.accuracy > self.baseline.accuracy_ci95[1]

    def to_dict(self) -> dict[str, Any]:
        """Gives `result.json` as plain JSON values."""
        return {
            "schema": SCHEMA,
            "recipe": recipe_lib.to_dict(self.recipe),
            "environment": self.environment,
            "accounting": self.account.to_dict(),
            "upstream": {
                "mode": self.mode,
                "version": upstream.installed_version(),
                "mends": list(self.mends),
            },
            "data": {"problems": self.problems, "long_prompts": self.long_prompts},
            "warm_start": self.warm_start and dataclasses.asdict(self.warm_start),
            "baseline": self.baseline.to_dict(),
            "trained": self.trained.to_dict(),
            "steps": self.steps,
            "phases": self.phases,
            "checkpoint_step": self.checkpoint_step,
        }


def run(
    recipe: recipe_lib.Recipe,
    out: pathlib.Path,
    *,
    mode: upstream.Mode = "mended",
    console: Console | None = None,
) -> Result:
    """Runs the recipe from data to the second evaluation.

    Args:
      recipe: What to run.
      out: Folder to make, for `result.json`, `samples.jsonl`, `tensorboard/`
        and `checkpoints/`; it must be empty if it is there.
      mode: `mended`, or `stock` for Tunix exactly as installed.
      console: Where progress goes; bars are shown only on a terminal.

    Returns:
      The result, which is also written.

    Raises:
      HarnessError: Something given cannot be used; nothing is left in `out`.
    """
    show = _Show(console or Console(quiet=True))
    phases = Phases()
    mends = upstream.mends(mode)
    with _claimed(out):
        with phases("prepare"), show.step("data, tokenizer and models"):
            reward_fn = rewards.build(recipe.reward)
            mesh = models.make_mesh(recipe.sharding)
            tokenizer = tokenizer_lib.load(recipe)
            dataset = data.load(recipe, tokenizer)
            policy = make_policy(recipe, mesh)

        warm = None
        if recipe.model.weights == "random" and recipe.warm_start.max_steps:
            with phases("warm_start"), show.bar("warm start", recipe.warm_start.max_steps) as bar:
                problems = data.supervised_problems(recipe)
                warm = warm_start_lib.warm_start(
                    recipe, policy, tokenizer, problems, mesh, lambda step, _: bar(step)
                )

        with phases("build"), show.step("LoRA actor and critic"):
            actor = models.apply_lora(policy, recipe.lora, mesh, recipe.seed)
            critic = models.make_critic(policy, mesh, recipe.seed)
            generator = upstream.Generator(recipe, actor, tokenizer, mesh)

        with phases("baseline"), show.bar("baseline", _test_problems(recipe, dataset)) as bar:
            baseline = evaluation.evaluate(
                recipe, generator, dataset.test, stage="baseline", on_batch=bar
            )

        with phases("train"), show.step("PPO"):
            cluster = upstream.make_cluster(
                recipe,
                mesh=mesh,
                actor=actor,
                critic=critic,
                reference=policy if recipe.ppo.beta > 0 else None,
                tokenizer=tokenizer,
                directory=out,
                mends=mends,
            )
            recorder = upstream.StepRecorder(cluster)
            learner = upstream.make_learner(
                recipe, cluster=cluster, reward_fn=reward_fn, mends=mends
            )
            try:
                learner.train(dataset.train, dataset.validation)
            finally:
                upstream.release(learner)
            steps = recorder.steps(accounting.optimizer_steps_per_batch(recipe))

        with phases("restore"), show.step("checkpoint"):
            # A fresh actor, so that the second evaluation sees only what was
            # saved; critic, optimizers and their memory are given back first.
            del learner, cluster, recorder, critic, actor
            gc.collect()
            restored = models.apply_lora(policy, recipe.lora, mesh, recipe.seed)
            checkpoint_step = upstream.restore_actor(restored, out)
            generator.model = restored

        with phases("trained"), show.bar("trained", _test_problems(recipe, dataset)) as bar:
            trained = evaluation.evaluate(
                recipe, generator, dataset.test, stage="trained", on_batch=bar
            )

        result = Result(
            recipe=recipe,
            environment=environment.fingerprint(),
            account=accounting.account(recipe, overshoots=upstream.standing("max-steps-overshoot")),
            mode=mode,
            mends=mends,
            problems=dict(dataset.problems),
            long_prompts=dict(dataset.long_prompts),
            warm_start=warm,
            baseline=baseline,
            trained=trained,
            steps=steps,
            phases=phases.to_list(),
            checkpoint_step=checkpoint_step,
        )
        write(result, out)
        return result


def make_policy(recipe: recipe_lib.Recipe, mesh: jax.sharding.Mesh) -> gemma3.Gemma3:
    """Gives the policy before LoRA: random, or from the checkpoint.

    Args:
      recipe: The model and the seed.
      mesh: Devices to lay the weights over.

    Returns:
      The model.

    Raises:
      HarnessError: The checkpoint cannot be used.
    """
    if recipe.model.weights == "checkpoint":
        return models.load_gemma(recipe.model, mesh)
    return models.random_gemma(recipe.model, mesh, recipe.seed)


def write(result: Result, out: pathlib.Path) -> None:
    """Writes `samples.jsonl`, then `result.json`, each whole or not at all.

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
    return min(dataset.problems["test"], recipe.data.num_test_batches * recipe.batching.batch)


@contextlib.contextmanager
def _claimed(out: pathlib.Path) -> Iterator[None]:
    """Makes the run's folder, and takes it away again if the run cannot be done."""
    try:
        if out.is_dir() and any(out.iterdir()):
            raise errors.HarnessError(
                f"output folder {out} is not empty, it may hold another run: give a new "
                "folder, or remove it"
            )
        new = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out):
            pass
    except OSError as error:
        raise errors.HarnessError(
            f"output folder {out} cannot be written ({error.strerror}): give another one"
        ) from None
    try:
        yield
    except errors.HarnessError:
        for child in out.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        if new:
            out.rmdir()
        raise


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
