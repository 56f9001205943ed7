"""PPO between the two evaluations: begun or gone on with, guarded, and saved as it goes."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax

from harness import data, errors, upstream
from harness import recipe as recipe_lib
from harness.measure import parts
from harness.run_warning import RunWarning
from harness.training import learning_signal, run_dir
from harness.training.guards import Guard, Options


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training did.

    Attributes:
      steps: Figures of each global step, of all processes that took part.
      resumed_at: Optimizer step from which this process went on; none if it began.
      warnings: What in the figures of all steps says that nothing can be learned.
    """

    steps: list[dict[str, float]]
    resumed_at: int | None
    warnings: tuple[RunWarning, ...] = ()


def train(
    recipe: recipe_lib.Recipe,
    dataset: data.Dataset,
    make_cluster: Callable[..., upstream.Cluster],
    reward_fn: upstream.RewardFn,
    *,
    fixes: upstream.Fixes,
    folder: run_dir.RunDirectory,
    options: Options,
) -> Trained:
    """Train from the newest whole checkpoint of the run, or from the beginning.

    Args:
      recipe: What to run.
      dataset: Batches.
      make_cluster: `harness.upstream.make_cluster` with the models, the mesh and the tokenizer.
      reward_fn: Scores completions.
      fixes: The fixes in place.
      folder: The run's folder.
      options: What receives reports, and what may end it.

    Returns:
      What was done.

    Raises:
      HarnessError: The folder cannot be written, a figure is not finite, or
        the run was asked to end.
    """
    out, run = folder.out, folder.identity.id
    point = upstream.Point(0, 0) if fixes.stock else upstream.latest(out, run)
    if fixes.stock and folder.resumed and upstream.saved_steps(out):
        raise errors.HarnessError(
            "Tunix as installed does not go on where it stopped (resume-skips-data, "
            "resume-restarts-noise and other known issues): begin anew, or use the patched mode"
        )
    for line in point.refused:
        options.report(line)
    upstream.roll_back(out, point, run)
    before = folder.truncate(point.global_step)
    for events in (out / "tensorboard").glob("events.out.tfevents.*"):
        events.unlink()  # written anew from the journal
    if folder.resumed:
        options.report(f"training goes on from optimizer step {point.step}")
    cluster = make_cluster(recipe, directory=out, fixes=fixes, note={"run": run})
    if options.part is not parts.unmeasured:
        upstream.measure(cluster, options.part)
    scalars = upstream.Scalars(cluster)
    scalars.replay(before)
    guard = Guard(folder, scalars, options, before, lambda: cluster.global_steps)
    learner = upstream.make_learner(
        recipe,
        cluster=cluster,
        reward_fn=guard.guarded(reward_fn),
        fixes=fixes,
        watcher=guard,
    )
    try:
        _check_restored(cluster, point, out)
        if point.global_step < recipe_lib.global_steps(recipe):
            _train(learner, dataset)
        else:
            cluster.close()
    finally:
        upstream.release(learner)
    scalars.check_written()
    recorded = scalars.since(0)
    steps = upstream.rows([*before, *recorded], recipe_lib.optimizer_steps_per_batch(recipe))
    return Trained(
        steps,
        point.step if folder.resumed else None,
        learning_signal.look([*before, *recorded]),
    )


def _check_restored(cluster: upstream.Cluster, point: upstream.Point, out: pathlib.Path) -> None:
    found = cluster.actor_trainer.train_steps, cluster.global_steps
    if found != (point.step, point.global_step):
        raise errors.RunStopped(
            f"{out} was restored at optimizer step {found[0]}, global step {found[1]}, not at "
            f"{point.step}, {point.global_step}: another Tunix is installed than the one that "
            "began it; use that one"
        )


def _train(learner: upstream.Learner, dataset: data.Dataset) -> None:
    try:
        learner.train(dataset.train, dataset.validation)
    except jax.errors.JaxRuntimeError as error:
        # Raised where a result is first read: the step that made it may have donated the weights.
        reason = " ".join(str(error).split())[:300]
        raise errors.RunStopped(
            f"the device failed while training ({reason}): the weights that it holds cannot be "
            "relied on; go on from the last checkpoint by --resume"
        ) from error
