"""What upstream logged while training, gathered by global step."""

from typing import Any

import numpy as np

from harness.upstream import cluster as cluster_lib

_LOGGED = {
    "reward_mean": "rewards/score/mean",
    "format_rate": "rewards/format_rate",
    "completion_tokens_mean": "generation/completions/mean_length",
}
_TRAINED = {
    "clip_fraction": ("actor", "pg_clipfrac"),
    "policy_loss": ("actor", "loss"),
    "value_loss": ("critic", "loss"),
}


class StepRecorder:
    """Listens to a cluster and tells what each global step did.

    A global step is one rollout batch; figures of its several rollouts or
    optimizer steps are averaged.
    """

    def __init__(self, cluster: cluster_lib.Cluster):
        """Starts to listen."""
        self._cluster = cluster
        self._rollouts: dict[int, dict[str, float]] = {}
        cluster.with_external_metrics_logger(self._hear)

    def _hear(self, buffer: Any) -> None:
        if str(buffer.mode) != "train":
            return
        # After the last batch upstream hands over a buffer that holds no rollout.
        if all(logged in buffer.metrics for logged in _LOGGED.values()):
            self._rollouts[int(buffer.global_steps)] = {
                name: float(np.mean(buffer.metrics[logged][0])) for name, logged in _LOGGED.items()
            }

    def steps(self, optimizer_steps_per_batch: int) -> list[dict[str, float]]:
        """Gives one row per global step, once training has ended.

        Args:
          optimizer_steps_per_batch: Optimizer steps in a global step.

        Returns:
          Rows with `step` (from 1) and the figures of `result.json`'s `steps`.
        """
        logger: Any = self._cluster.actor_trainer.metrics_logger
        history = {
            name: np.asarray(logger.get_metric_history(prefix, metric, "train"))
            for name, (prefix, metric) in _TRAINED.items()
        }
        rows = []
        for index, (_, row) in enumerate(sorted(self._rollouts.items())):
            first = index * optimizer_steps_per_batch
            span = slice(first, first + optimizer_steps_per_batch)
            trained = {name: float(np.mean(values[span])) for name, values in history.items()}
            rows.append({"step": index + 1, **row, **trained})
        return rows
