"""Upstream's PPO learner from a recipe, and the mend that keeps fractional rewards."""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from tunix.rl.ppo import ppo_learner

from harness import recipe as recipe_lib
from harness.upstream import cluster as cluster_lib
from harness.upstream import rebind

RewardFn = Callable[..., Sequence[float]]
Learner = ppo_learner.PPOLearner
TrainExample = ppo_learner.TrainExample


def _float_zeros_like(x: jax.Array, **kwargs: Any) -> jax.Array:
    return jnp.zeros(jnp.shape(x), jnp.float32, **kwargs)


class FloatRewardLearner(ppo_learner.PPOLearner):
    """A PPO learner whose reward tensor is float32.

    Upstream makes it with `zeros_like` of the token ids, so every reward is
    cut to an integer.
    """

    _generate_and_compute_advantage = rebind.rebind(
        ppo_learner.PPOLearner._generate_and_compute_advantage,
        jnp=rebind.Overlay(jnp, zeros_like=_float_zeros_like),
    )


def ppo_config(ppo: recipe_lib.Ppo) -> ppo_learner.PPOConfig:
    """Gives upstream's configuration of the algorithm."""
    return ppo_learner.PPOConfig(
        num_iterations=ppo.num_epochs,
        gamma=ppo.gamma,
        gae_lambda=ppo.gae_lambda,
        beta=ppo.beta,
        kl_method=ppo.kl_method,
        epsilon=ppo.epsilon,
        epsilon_low=ppo.epsilon_low,
        epsilon_high=ppo.epsilon_high,
        epsilon_c=ppo.epsilon_c,
        entropy_coef=ppo.entropy_coef,
        clip_range_value=ppo.clip_range_value,
    )


def make_learner(
    recipe: recipe_lib.Recipe,
    *,
    cluster: cluster_lib.Cluster,
    reward_fn: RewardFn,
    mends: Collection[str] = (),
) -> Learner:
    """Builds the PPO learner.

    Args:
      recipe: The algorithm's numbers and the seed.
      cluster: The models.
      reward_fn: Scores completions; see `harness.rewards`.
      mends: Ids in `harness.upstream.ledger` of the defects to mend.

    Returns:
      A learner; `train` runs it.
    """
    learner = FloatRewardLearner if "reward-truncated" in mends else ppo_learner.PPOLearner
    return learner(
        rl_cluster=cluster,
        ppo_config=ppo_config(recipe.ppo),
        reward_fns=reward_fn,  # type: ignore[arg-type]
        metric_fns=[_format_rate],
        data_shuffle_seed=recipe.seed,
    )


def release(learner: Learner) -> None:
    """Gives back what a learner leaves behind when it has trained, or never did.

    That is the thread on which it prepares batches, and TensorBoard's ears in
    `jax.monitoring`, which otherwise hear every later training of the process.

    Args:
      learner: It must not be used afterwards.
    """
    learner.executor.shutdown()
    logger: Any = learner.rl_cluster.actor_trainer.metrics_logger
    for backend in logger._backends:
        # JAX asserts that the listener is there; it need not be.
        with contextlib.suppress(AssertionError, ValueError):
            jax.monitoring.unregister_scalar_listener(backend.log_scalar)


def generate_example(learner: Learner, batch: Mapping[str, np.ndarray]) -> TrainExample:
    """Runs the rollout half of a step: completions, log-probs, values, advantages.

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
    return learner._generate_and_compute_advantage(dict(batch))


def train_on(learner: Learner, example: TrainExample) -> None:
    """Runs the update half of a step: one gradient of the actor and one of the critic."""
    learner.rl_cluster.update_actor([example], None)
    learner.rl_cluster.update_critic([example], None)


def _format_rate(
    prompts: Any, completions: Any, rewards: np.ndarray, **columns: Any
) -> dict[str, Any]:
    """Gives the share of completions with any score, hence a well-formed answer."""
    del prompts, completions, columns
    return {"rewards/format_rate": (float(np.mean(np.asarray(rewards) > 0)), np.mean)}
