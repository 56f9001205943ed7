"""The recipe, top to bottom: evaluate, train by PPO, restore, evaluate again.

Every step is a function that serves alone; `run` is the order in which the
reference recipe takes them.
"""

import dataclasses
import functools
import gc
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from rich.console import Console
from tunix.models.gemma3 import model as gemma3

from harness import data, errors, evaluation, models, reward_trial, rewards, upstream
from harness import recipe as recipe_lib
from harness import tokenizer as tokenizer_lib
from harness.measure import environment, parts
from harness.measure.phases import Phases
from harness.models import kaggle, probe
from harness.models import warm_start as warm_start_lib
from harness.run_warning import RunWarning
from harness.tokenizer import Tokenizer
from harness.training import loop, result, run_dir
from harness.training.display import Display
from harness.training.guards import Options
from harness.training.result import Result


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run under way: what it runs, where it is saved, and how it is watched."""

    recipe: recipe_lib.Recipe
    folder: run_dir.RunDirectory
    options: Options
    phases: Phases
    display: Display

    def begin(self, stage: str) -> None:
        """Record the stage that begins; end here if that was asked for."""
        self.options.check(self.folder)
        self.folder.now(stage)


@dataclasses.dataclass(frozen=True)
class _Components:
    """What a run is made of before it is trained."""

    mesh: jax.sharding.Mesh
    tokenizer: Tokenizer
    dataset: data.Dataset
    reward_fn: upstream.RewardFn
    policy: gemma3.Gemma3
    model: dict[str, Any] | None


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
      part: Measures phases, and the parts of a training step, by name.

    Returns:
      The result, which is also written.

    Raises:
      Terminated: `stop` asked for it; the run can be gone on with.
      RunStopped: The run cannot go on now; what it had is saved.
      HarnessError: Something given cannot be used; nothing is left in `out`.
    """
    models.one_host()
    upstream.check_backends(recipe)
    console = console or Console(quiet=True)
    chosen = upstream.choose_fixes(mode, fixes)
    options = Options(
        stop=stop,
        continue_on_nan=continue_on_nan,
        report=lambda line: console.print(line, markup=False, soft_wrap=True),
        part=part,
    )
    here = environment.fingerprint()
    with run_dir.claim(
        out,
        recipe,
        mode,
        here,
        fixes=fixes,
        resume=resume,
        worth_saving=("checkpoints/sealed/*.json",),
    ) as folder:
        if (out / "result.json").exists():
            options.report(f"the run in {out} is complete: nothing is done again")
            return result.read(folder)
        if folder.resumed:
            _compare_environments(folder, here, options)
        this = _Run(recipe, folder, options, Phases(part=part), Display(console))

        components = _prepare(this, log_probs)
        warm = _warm_start(this, components)
        _same_policy(folder, components)
        actor, critic = _build(this, components)
        generator = upstream.Generator(recipe, actor, components.tokenizer, components.mesh)

        baseline = _evaluate(this, "baseline", generator, components.dataset)
        trained = _train(this, components, actor, critic, chosen)
        # A fresh actor, so that the second evaluation sees only what was saved; critic,
        # optimizers and their memory are given back first.
        del actor, critic
        checkpoint_step = _restore(this, components, generator)
        after = _evaluate(this, "trained", generator, components.dataset)

        found = _result(
            this,
            components,
            warm,
            baseline,
            trained,
            checkpoint_step,
            after,
            mode=mode,
            fixes=chosen.ids,
            environment=here,
        )
        result.write(found, out)
        folder.now("done")
        return found


def _result(
    this: _Run,
    components: _Components,
    warm: warm_start_lib.WarmStart | None,
    baseline: evaluation.Evaluation,
    trained: loop.Trained,
    checkpoint_step: int,
    after: evaluation.Evaluation,
    **conditions: Any,
) -> Result:
    overshoots = upstream.standing("max-steps-overshoot")
    return Result(
        recipe=this.recipe,
        summary=recipe_lib.summarize(this.recipe, overshoots=overshoots),
        problems=dict(components.dataset.problems),
        long_prompts=dict(components.dataset.long_prompts),
        warm_start=warm,
        baseline=baseline,
        trained=after,
        steps=trained.steps,
        phases=this.phases.to_list(),
        checkpoint_step=checkpoint_step,
        resumed_at=trained.resumed_at,
        model=components.model,
        warnings=(
            *components.dataset.warnings,
            *trained.warnings,
            *_not_scored(baseline, after),
        ),
        **conditions,
    )


def _prepare(this: _Run, log_probs: pathlib.Path | None) -> _Components:
    """Load data, tokenizer and policy, and try the reward."""
    recipe, options = this.recipe, this.options
    with this.phases("prepare"), this.display.step("data, tokenizer and models"):
        this.begin("prepare")
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
        with options.part("load"):
            policy = models.make_policy(local, mesh, options.report)
        model = _describe(this, policy) if recipe.model.weights == "checkpoint" else None
        if log_probs is not None:
            with options.part("compare log-probs"):
                distance = probe.compare(policy, tokenizer, mesh, log_probs)
            options.report(f"log-probs are within {distance:.2g} nats of {log_probs}")
    return _Components(mesh, tokenizer, dataset, reward_fn, policy, model)


def _describe(this: _Run, policy: gemma3.Gemma3) -> dict[str, Any]:
    """Return what was loaded from a checkpoint, and report it."""
    with this.options.part("checksum"):
        found = probe.describe(policy)
    this.folder.save_stage("model", found)
    this.options.report(
        f"loaded {len(found['arrays'])} arrays, {found['parameters']:,} parameters, "
        f"{', '.join(found['dtypes'])}, sha256 {found['sha256'][:12]}"
    )
    return found


def _warm_start(this: _Run, components: _Components) -> warm_start_lib.WarmStart | None:
    """Train random weights by supervision, where the recipe asks for it."""
    recipe = this.recipe
    if recipe.model.weights != "random" or not recipe.warm_start.max_steps:
        return None
    steps = recipe.warm_start.max_steps
    with this.phases("warm_start"), this.display.bar("warm start", steps) as bar:
        this.begin("warm_start")
        return warm_start_lib.warm_start(
            recipe,
            components.policy,
            components.tokenizer,
            data.supervised_problems(recipe),
            components.mesh,
            lambda step, _: bar(step),
        )


def _build(this: _Run, components: _Components) -> tuple[gemma3.Gemma3, models.GemmaCritic]:
    """Make the LoRA actor and the critic from the policy."""
    with this.phases("build"), this.display.step("LoRA actor and critic"):
        this.begin("build")
        of = this.recipe, components.policy, components.mesh
        return models.build_actor(*of), models.build_critic(*of)


def _evaluate(
    this: _Run, stage: str, generator: upstream.Generator, dataset: data.Dataset
) -> evaluation.Evaluation:
    """Measure the accuracy, or read it where an earlier process did."""
    if (found := this.folder.stage(stage)) is not None:
        return evaluation.Evaluation.from_saved(found)
    asked = this.recipe.data.num_test_batches * this.recipe.batching.rollout_batch_size
    problems = min(dataset.problems["test"], asked)
    with this.phases(stage), this.display.bar(stage, problems) as bar:

        def on_batch(problems_done: int) -> None:
            bar(problems_done)
            this.options.check(this.folder)

        this.begin(stage)
        try:
            made = evaluation.evaluate(
                this.recipe, generator, dataset.test, stage=stage, on_batch=on_batch
            )
        except evaluation.ScoringFailedError as error:
            first, last = error.problems
            where = f"evaluation {stage}, test problems {first} to {last}"
            raise reward_trial.stopped(
                this.folder.out, f"{stage}-{first}", where, error, error.batch
            ) from error
    this.folder.save_stage(stage, made.to_saved())
    return made


def _train(
    this: _Run,
    components: _Components,
    actor: gemma3.Gemma3,
    critic: models.GemmaCritic,
    fixes: upstream.Fixes,
) -> loop.Trained:
    """Train by PPO, from the newest checkpoint of the run."""
    with this.phases("train"), this.display.step("PPO"):
        this.begin("train")
        return loop.train(
            this.recipe,
            components.dataset,
            functools.partial(
                upstream.make_cluster,
                mesh=components.mesh,
                actor=actor,
                critic=critic,
                reference=components.policy if this.recipe.ppo.beta > 0 else None,
                tokenizer=components.tokenizer,
            ),
            components.reward_fn,
            fixes=fixes,
            folder=this.folder,
            options=this.options,
        )


def _restore(this: _Run, components: _Components, generator: upstream.Generator) -> int:
    """Let the generator use the last checkpoint's actor; return its optimizer step."""
    with this.phases("restore"), this.display.step("checkpoint"):
        this.begin("restore")
        gc.collect()
        restored = models.build_actor(this.recipe, components.policy, components.mesh)
        step = upstream.restore_actor(restored, this.folder.out)
        generator.model = restored
        return step


def _not_scored(*found: evaluation.Evaluation) -> list[RunWarning]:
    """Return a warning for samples whose score was not finite."""
    count = sum(sample.score is None for each in found for sample in each.samples)
    text = (
        f"the reward was not finite for {count} completion(s) of test problems: they count as "
        "neither right nor well-formed"
    )
    return [RunWarning("evaluation-not-finite", text)] if count else []


def _compare_environments(
    folder: run_dir.RunDirectory, now: dict[str, Any], options: Options
) -> None:
    """Report under what else the run began: its figures may then differ."""
    for name in sorted(now):
        if now[name] != folder.identity.environment.get(name):
            options.report(
                f"the run began with another {name}: {folder.identity.environment.get(name)}, "
                f"now {now[name]}; its figures may differ in the last digits"
            )


def _same_policy(folder: run_dir.RunDirectory, components: _Components) -> None:
    """Refuse to go on with other weights than those that the run began with."""
    # A warm start changes random weights alone.
    model = components.model
    found = {"sha256": model["sha256"] if model else models.checksum(components.policy)}
    known = folder.stage("policy")
    if known is None:
        folder.save_stage("policy", found)
    elif known != found:
        raise errors.RunStopped(
            f"the policy before PPO has checksum {found['sha256'][:12]}, the run in {folder.out} "
            f"began with {known['sha256'][:12]}: give the checkpoint and the libraries that it "
            "began with, or begin anew"
        )
