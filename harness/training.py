"""PPO between the two evaluations: begun or gone on with, guarded, and kept as it goes."""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from harness import (
    data,
    errors,
    files,
    learning_signal,
    progress,
    reward_trial,
    rewards,
    upstream,
)
from harness import recipe as recipe_lib
from harness.measure import parts
from harness.run_warning import RunWarning


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is watched; none of it changes what is learned.

    Attributes:
      stop: Asked between two batches; once it says so, the run is saved and ended.
      continue_on_nan: Whether figures that are not finite are reported and training goes on.
      report: Takes a line for the person who watches.
      part: Measures a block by name; see `harness.measure.parts`.
    """

    stop: Callable[[], bool] = lambda: False
    continue_on_nan: bool = False
    report: Callable[[str], None] = lambda line: None
    part: parts.Part = parts.unmeasured

    def check(self, kept: progress.Progress) -> None:
        """End the run if it is asked to.

        Raises:
          Terminated: It is.
        """
        if self.stop():
            raise progress.terminated(kept.out)


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
    kept: progress.Progress,
    options: Options,
) -> Trained:
    """Train from the newest whole checkpoint of the run, or from the beginning.

    Args:
      recipe: What to run.
      dataset: Batches.
      make_cluster: `harness.upstream.make_cluster` with the models, the mesh and the tokenizer.
      reward_fn: Scores completions.
      fixes: The fixes in place.
      kept: The run's folder.
      options: What receives reports, and what may end it.

    Returns:
      What was done.

    Raises:
      HarnessError: The folder cannot be written, a figure is not finite, or
        the run was asked to end.
    """
    out, run = kept.out, kept.identity.id
    point = upstream.Point(0, 0) if fixes.stock else upstream.latest(out, run)
    if fixes.stock and kept.resumed and upstream.saved_steps(out):
        raise errors.HarnessError(
            "Tunix as installed does not go on where it stopped (resume-skips-data, "
            "resume-restarts-noise and other known issues): begin anew, or use the patched mode"
        )
    for line in point.refused:
        options.report(line)
    upstream.roll_back(out, point, run)
    before = kept.truncate(point.global_step)
    for events in (out / "tensorboard").glob("events.out.tfevents.*"):
        events.unlink()  # written anew from the journal
    if kept.resumed:
        options.report(f"training goes on from optimizer step {point.step}")
    cluster = make_cluster(recipe, directory=out, fixes=fixes, note={"run": run})
    if options.part is not parts.unmeasured:
        upstream.measure(cluster, options.part)
    scalars = upstream.Scalars(cluster)
    scalars.replay(before)
    watch = _Watch(kept, scalars, options, before, lambda: cluster.global_steps)
    learner = upstream.make_learner(
        recipe,
        cluster=cluster,
        reward_fn=watch.guarded(reward_fn),
        fixes=fixes,
        watcher=watch,
    )
    found = cluster.actor_trainer.train_steps, cluster.global_steps
    if found != (point.step, point.global_step):
        upstream.release(learner)
        raise errors.RunStopped(
            f"{out} was restored at optimizer step {found[0]}, global step {found[1]}, not at "
            f"{point.step}, {point.global_step}: another Tunix is installed than the one that "
            "began it; use that one"
        )
    try:
        if point.global_step < recipe_lib.global_steps(recipe):
            learner.train(dataset.train, dataset.validation)
        else:
            cluster.close()
    except jax.errors.JaxRuntimeError as error:
        # Raised where a result is first read: the step that made it may have donated the weights.
        reason = " ".join(str(error).split())[:300]
        raise errors.RunStopped(
            f"the device failed while training ({reason}): the weights that it holds cannot be "
            "relied on; go on from the last checkpoint by --resume"
        ) from error
    finally:
        upstream.release(learner)
    scalars.check_written()
    recorded = scalars.since(0)
    steps = upstream.rows([*before, *recorded], recipe_lib.optimizer_steps_per_batch(recipe))
    return Trained(
        steps,
        point.step if kept.resumed else None,
        learning_signal.look([*before, *recorded]),
    )


class _Watch:
    """Keeps what each batch logged, and stops where something is not finite."""

    def __init__(
        self,
        kept: progress.Progress,
        scalars: upstream.Scalars,
        options: Options,
        before: Sequence[progress.Scalar] = (),
        global_steps: Callable[[], int] | None = None,
    ):
        self._kept = kept
        self._scalars = scalars
        self._options = options
        self._before = before
        # A stock learner does not report its steps; the cluster counts them.
        self._global_steps = global_steps
        self._recorded = 0
        self._looked_at = 0
        self._global_step = 0
        self._sequences = (-1, 0)  # global step, and sequences of it that were scored
        self._warned = False

    def doing(self, what: str, global_step: int) -> None:
        self._global_step = global_step
        # A checkpoint is of the batches that are done, all else of the one in hand.
        self._kept.now(what, global_step=global_step + (what != "checkpoint"))

    def mini_batch_ended(self, examples: Sequence[upstream.TrainExample]) -> None:
        found = upstream.not_finite(self._scalars.since(self._looked_at))
        self._looked_at = len(self._scalars)
        if found:
            what, step = found[0]
            arrays = _arrays(examples)
            self._not_finite(what, f"optimizer step {step}", f"step-{step}", arrays)

    def batch_ended(self, global_steps: int) -> bool:
        new = self._scalars.since(self._recorded)
        self._recorded += len(new)
        self._kept.record(progress.Entry(global_steps, tuple(new)))
        self._warn_without_signal(global_steps)
        return self._options.stop()

    def _warn_without_signal(self, global_steps: int) -> None:
        if self._warned or global_steps < learning_signal.PATIENCE:
            return
        for found in learning_signal.look([*self._before, *self._scalars.since(0)]):
            self._warned = True
            self._options.report(f"warning: after global step {global_steps}, {found.text}")

    def checkpoint_saved(self, step: int, global_steps: int) -> None:
        with self._options.part("seal"):
            upstream.seal(self._kept.out, step, global_steps, self._kept.identity.id)
        self._options.check(self._kept)

    def guarded(self, reward_fn: upstream.RewardFn) -> upstream.RewardFn:
        """Return the reward, stopped at what is not finite: upstream would make it 0."""

        def reward(
            prompts: Sequence[str], completions: Sequence[str], **columns: Any
        ) -> Sequence[float]:
            where, name = self._where(len(completions), columns)
            try:
                return reward_fn(prompts, completions, **columns)
            except rewards.RewardFailedError as error:
                batch = {"prompts": prompts, "completions": completions, **columns}
                raise reward_trial.stopped(self._kept.out, name, where, error, batch) from error
            except rewards.NotFiniteError as found:
                scores = np.asarray(found.scores)
                self._not_finite(
                    "the reward",
                    "rollout",
                    f"rollout-{self._global_step + 1}",
                    {
                        "prompts": np.asarray(prompts),
                        "completions": np.asarray(completions),
                        "scores": scores,
                        **{
                            name: np.asarray(column)
                            for name, column in columns.items()
                            if isinstance(column, list | np.ndarray)
                        },
                    },
                )
                # As upstream would, once asked to go on.
                return np.nan_to_num(scores, nan=0.0, posinf=0.0, neginf=0.0).tolist()

        # Upstream logs a reward under the name of its function.
        reward.__name__ = getattr(reward_fn, "__name__", "reward")
        return reward

    def _where(self, count: int, columns: Mapping[str, Any]) -> tuple[str, str]:
        """Return which sequences a call of the reward is of, and a name for its files."""
        if self._global_steps is not None:
            self._global_step = self._global_steps()
        step = self._global_step + 1
        if columns.get("mode") == "eval":
            return f"validation in global step {step}, {count} sequences", f"validation-{step}"
        counted, first = self._sequences
        first = first if counted == step else 0
        self._sequences = (step, first + count)
        return f"global step {step}, sequences {first} to {first + count - 1}", f"rollout-{step}"

    def _not_finite(
        self, what: str, phase: str, name: str, arrays: Mapping[str, np.ndarray]
    ) -> None:
        text = f"{what} is not finite in global step {self._global_step + 1}, {phase}"
        if self._options.continue_on_nan:
            self._options.report(f"{text}; going on")
            return
        path = self._kept.out / "not_finite" / f"{name}.npz"
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir()
        files.write_whole(path, buffer.getvalue())
        raise errors.RunStopped(
            f"{text}: the batch is in {path}; lower the learning rate or correct the reward in a "
            "new run, or go on from the last good checkpoint by --resume --continue-on-nan"
        )


def _arrays(examples: Sequence[upstream.TrainExample]) -> dict[str, np.ndarray]:
    names = [field.name for field in dataclasses.fields(examples[0])] if examples else []  # type: ignore[arg-type]
    return {
        name: np.concatenate([np.asarray(getattr(each, name)) for each in examples])
        for name in names
        if getattr(examples[0], name) is not None
    }
