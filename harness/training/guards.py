"""What watches a training: reports, the journal, and the end where a figure is not finite."""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from harness import errors, files, reward_call, reward_trial, upstream
from harness.measure import parts
from harness.training import learning_signal, run_dir


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

    def check(self, folder: run_dir.RunDirectory) -> None:
        """End the run if it is asked to.

        Raises:
          Terminated: It is.
        """
        if self.stop():
            raise run_dir.terminated(folder.out)


class Guard:
    """Record what each batch logged, and stop where something is not finite.

    It is the learner's watcher (`harness.upstream.Watcher`).
    """

    def __init__(
        self,
        folder: run_dir.RunDirectory,
        scalars: upstream.Scalars,
        options: Options,
        before: Sequence[run_dir.Scalar] = (),
        global_steps: Callable[[], int] | None = None,
    ):
        self._folder = folder
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
        """Record what the learner does from now on."""
        self._global_step = global_step
        # A checkpoint is of the batches that are done, all else of the one in hand.
        self._folder.now(what, global_step=global_step + (what != "checkpoint"))

    def mini_batch_ended(self, examples: Sequence[upstream.TrainExample]) -> None:
        """Look for figures that are not finite.

        Raises:
          RunStopped: There is one, and the run does not go on past it.
        """
        found = upstream.not_finite(self._scalars.since(self._looked_at))
        self._looked_at = len(self._scalars)
        if found:
            what, step = found[0]
            arrays = _arrays(examples)
            self._not_finite(what, f"optimizer step {step}", f"step-{step}", arrays)

    def batch_ended(self, global_steps: int) -> bool:
        """Add a global step to the journal; return whether to save and end."""
        new = self._scalars.since(self._recorded)
        self._recorded += len(new)
        self._folder.record(run_dir.Entry(global_steps, tuple(new)))
        self._warn_without_signal(global_steps)
        return self._options.stop()

    def _warn_without_signal(self, global_steps: int) -> None:
        if self._warned or global_steps < learning_signal.PATIENCE:
            return
        for found in learning_signal.look([*self._before, *self._scalars.since(0)]):
            self._warned = True
            self._options.report(f"warning: after global step {global_steps}, {found.text}")

    def checkpoint_saved(self, step: int, global_steps: int) -> None:
        """Seal a checkpoint: from now on it can be gone on from.

        Raises:
          Terminated: The run is asked to end.
        """
        with self._options.part("seal"):
            upstream.seal(self._folder.out, step, global_steps, self._folder.identity.id)
        self._options.check(self._folder)

    def guarded(self, reward_fn: upstream.RewardFn) -> upstream.RewardFn:
        """Return the reward, stopped at what is not finite: upstream would make it 0."""

        def reward(
            prompts: Sequence[str], completions: Sequence[str], **columns: Any
        ) -> Sequence[float]:
            where, name = self._where(len(completions), columns)
            try:
                return reward_fn(prompts, completions, **columns)
            except reward_call.RewardFailedError as error:
                batch = {"prompts": prompts, "completions": completions, **columns}
                raise reward_trial.stopped(self._folder.out, name, where, error, batch) from error
            except reward_call.NotFiniteError as found:
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
        path = self._folder.out / "not_finite" / f"{name}.npz"
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
