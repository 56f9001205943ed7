"""Parts of a training step, each called by itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.rl import common, reward_manager, rl_cluster
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout.base_rollout import RolloutOutput

from harness.upstream.engine import cluster as cluster_lib
from harness.upstream.engine.learner import EngineLearner, Learner, RewardFn, TrainExample


def sample(learner: Learner, batch: Mapping[str, np.ndarray]) -> RolloutOutput:
    """Sample completions with the settings of training.

    Args:
      learner: The learner.
      batch: Columns of one batch, `prompts` among them, each [B].

    Returns:
      Tunix's output of the rollout: texts and tokens of B completions.
    """
    prompts = [str(each) for each in batch["prompts"]]
    return learner.rl_cluster.generate(prompts, micro_batch_size=learner._rollout_micro_batch_size)


def generate_example(learner: Learner, batch: Mapping[str, np.ndarray]) -> TrainExample:
    """Run the rollout half of a step: completions, log-probs, values, advantages.

    Args:
      learner: The learner.
      batch: Columns of one batch, `prompts` among them, each [B].

    Returns:
      The example that the trainers learn from: prompt ids [B, P], completion
      ids, masks, log-probs, values, advantages and returns [B, T].
    """
    for name in ("_rollout_micro_batch_size", "_compute_logps_micro_batch_size"):
        # Upstream settles these at the start of `train`.
        if getattr(learner, name) is None:
            setattr(learner, name, len(batch["prompts"]))
    examples = learner._process_accumulated_batches(
        micro_batches=[dict(batch)],
        micro_batch_sizes=[len(batch["prompts"])],
        mode=rl_cluster.Mode.TRAIN,
    )
    if isinstance(learner, EngineLearner):
        examples = learner.weighted(examples)
    return examples[0]  # type: ignore[return-value]


def train_on(learner: Learner, example: TrainExample) -> None:
    """Run the update half of a step: one gradient of the actor and one of the critic."""
    learner.rl_cluster.update_actor([example], None)
    learner.rl_cluster.update_critic([example], None)


def log_probs(cluster: cluster_lib.Cluster, prompts: Any, completions: Any) -> np.ndarray:
    """Compute the policy's log-probs [B, T] as a training step does."""
    return np.asarray(cluster.get_old_per_token_logps(jnp.array(prompts), jnp.array(completions)))


def log_probs_of(model: nnx.Module, prompts: Any, completions: Any) -> np.ndarray:
    """Compute a model's log-probs [B, T] of completions, at temperature 1; 0 is the pad."""
    found = common.compute_per_token_logps(
        *nnx.split(model), jnp.array(prompts), jnp.array(completions), pad_id=0, eos_id=1
    )
    return np.asarray(found)


def values(cluster: cluster_lib.Cluster, prompts: Any, completions: Any) -> np.ndarray:
    """Compute the critic's values [B, T] of the states before the completions' tokens."""
    found = cluster.get_values(
        jnp.array(prompts),
        jnp.array(completions),
        cluster.rollout.pad_id(),
        cluster.rollout.eos_id(),
    )
    return np.asarray(found)[:, -np.shape(completions)[1] - 1 : -1]


def rows_of_values_calls(cluster: cluster_lib.Cluster, rows: int) -> list[int]:
    """Return how many rows each call of the critic takes when values of `rows` are asked for."""
    seen: list[int] = []

    def values(prompts: jax.Array, completions: jax.Array, *ids: int, **kwargs: Any) -> jax.Array:
        del ids, kwargs
        seen.append(len(prompts))
        return jnp.zeros((len(prompts), prompts.shape[1] + completions.shape[1]))

    worker: Any = cluster.inference_worker
    compute, worker.get_values = worker.get_values, values
    try:
        cluster.get_values(jnp.ones((rows, 2), int), jnp.ones((rows, 2), int), 0, 1)
    finally:
        worker.get_values = compute
    return seen


def divergence(policy: np.ndarray, reference: np.ndarray, method: str) -> np.ndarray:
    """Compute upstream's estimate of the divergence, token by token."""
    return np.asarray(
        common.compute_kl_divergence(jnp.array(policy), jnp.array(reference), method=method)
    )


def total_rewards(
    reward_fns: Sequence[RewardFn], prompts: Sequence[str], completions: Sequence[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Ask several reward functions as a learner does.

    Args:
      reward_fns: The functions, each with a name of its own.
      prompts: [B].
      completions: [B].

    Returns:
      Rewards [B], and what is logged of them by name, aggregated.
    """
    manager = reward_manager.SequenceRewardManager(
        reward_fns=list(reward_fns),  # type: ignore[arg-type]
        algo_config=ppo_learner.PPOConfig(),
    )
    found = manager(prompts=list(prompts), completions=list(completions))
    logged = {
        name: np.asarray(take(values))
        for name, (values, take) in found["log_metrics"].items()
        if take is not None
    }
    return np.asarray(found["rewards"]), logged
