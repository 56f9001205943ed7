"""What upstream logs while training: recorded, gathered by global step, and replayed."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from harness import errors
from harness.upstream.engine import cluster as cluster_lib
from harness.upstream.engine import writers

Scalar = tuple[str, float, int]

# By upstream's event, `prefix/mode/name`; steps of the first are global steps,
# counted from 0, of the second optimizer steps, counted from 1.
_LOGGED = {
    "rewards/train/score/mean": "reward_mean",
    "rewards/train/format_rate": "format_rate",
    "generation/train/completions/mean_length": "completion_tokens_mean",
}
_TRAINED = {
    "actor/train/pg_clipfrac": "clip_fraction",
    "actor/train/loss": "policy_loss",
    "critic/train/loss": "value_loss",
}
_GUARDED = {
    "rewards/train/score/mean": "the reward",
    "actor/train/loss": "the policy loss",
    "actor/train/grad_norm": "the actor's gradient",
    "critic/train/loss": "the value loss",
    "critic/train/grad_norm": "the critic's gradient",
}


class Scalars:
    """Record each figure that a cluster logs."""

    def __init__(self, cluster: cluster_lib.Cluster):
        """Begin to listen."""
        self._recorded: list[Scalar] = []
        self._logger: Any = cluster._rl_metrics_logger
        self._failed = writers.watch(self._logger)
        log = self._logger.log

        def record(prefix: str, name: str, value: Any, mode: Any, step: Any) -> None:
            self.check_written()
            figure = np.asarray(value)
            if figure.size == 1:  # as TensorBoard takes
                event = f"{prefix}/{mode}/{name}"
                self._recorded.append((event, float(figure.reshape(())), int(step or 0)))
            log(prefix, name, value, mode, step)

        self._logger.log = record

    def check_written(self) -> None:
        """Return whether TensorBoard's file could be written.

        Raises:
          RunStopped: It could not.
        """
        if self._failed:
            reason = self._failed[0].strerror or type(self._failed[0]).__name__
            raise errors.RunStopped(
                f"TensorBoard's figures cannot be written ({reason}): make room, then go on by "
                "--resume"
            )

    def __len__(self) -> int:
        return len(self._recorded)

    def since(self, count: int) -> list[Scalar]:
        """Return the figures recorded after the first `count`."""
        return self._recorded[count:]

    def replay(self, scalars: Iterable[Scalar]) -> None:
        """Write figures of an earlier process to TensorBoard."""
        for backend in self._logger._backends:
            for event, value, step in scalars:
                backend.log_scalar(event, value, step=step)


def rows(scalars: Iterable[Scalar], optimizer_steps_per_batch: int) -> list[dict[str, float]]:
    """Return one row per global step.

    Figures of a global step's several rollouts or optimizer steps are averaged.

    Args:
      scalars: All figures of a training, from its beginning.
      optimizer_steps_per_batch: Optimizer steps in a global step.

    Returns:
      Rows with `step` (from 1) and the figures of `result.json`'s `steps`.
    """
    found: dict[int, dict[str, list[float]]] = {}
    for event, value, step in scalars:
        if event in _LOGGED:
            found.setdefault(step, {}).setdefault(_LOGGED[event], []).append(value)
        elif event in _TRAINED:
            batch = (step - 1) // optimizer_steps_per_batch
            found.setdefault(batch, {}).setdefault(_TRAINED[event], []).append(value)
    names = (*_LOGGED.values(), *_TRAINED.values())
    return [
        {"step": batch + 1, **{name: float(np.mean(found[batch][name])) for name in names}}
        for batch in sorted(found)
        if found[batch].keys() >= set(names)
    ]


def not_finite(scalars: Iterable[Scalar]) -> list[tuple[str, int]]:
    """Name what is NaN or infinite among losses, gradients and rewards.

    Args:
      scalars: Figures.

    Returns:
      What, and at which step: of the optimizer, from 1; of a reward the global
      step, from 0.
    """
    return [
        (_GUARDED[event], step)
        for event, value, step in scalars
        if event in _GUARDED and not np.isfinite(value)
    ]
