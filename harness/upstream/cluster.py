"""Upstream's cluster of actor, critic, reference and rollout, from a recipe."""

import functools
import pathlib
from collections.abc import Collection
from typing import Any

import jax
import optax
from flax import nnx
from orbax import checkpoint as ocp
from tunix.rl import rl_cluster
from tunix.rl.rollout import base_rollout
from tunix.sft import metrics_logger

from harness import accounting
from harness import recipe as recipe_lib
from harness.tokenizer import Tokenizer
from harness.upstream import rollout

Cluster = rl_cluster.RLCluster


def make_optimizer(recipe: recipe_lib.Recipe, peak: float) -> optax.GradientTransformation:
    """Builds AdamW with warm-up, cosine decay and global-norm clipping.

    Args:
      recipe: Decay rates, clipping and number of steps.
      peak: Peak learning rate.

    Returns:
      The optimizer of one model.
    """
    config = recipe.optimizers
    optimizer = optax.adamw(
        learning_rate=make_schedule(recipe, peak),
        b1=config.b1,
        b2=config.b2,
        weight_decay=config.weight_decay,
    )
    if config.max_grad_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optimizer)


def make_schedule(recipe: recipe_lib.Recipe, peak: float) -> optax.Schedule:
    """Builds the learning rate: linear from 0 to `peak`, then cosine to 0.

    Args:
      recipe: Share of warm-up, and the step at which the rate is 0 again.
      peak: Peak learning rate.

    Returns:
      Learning rate by optimizer step, counted from 0.
    """
    steps = accounting.max_steps(recipe)
    return optax.schedules.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=recipe.optimizers.warmup_fraction * steps,  # type: ignore[arg-type]
        decay_steps=steps,
        end_value=0.0,
    )


def rollout_config(recipe: recipe_lib.Recipe, tokenizer: Tokenizer) -> base_rollout.RolloutConfig:
    """Gives upstream's sampling configuration."""
    config = recipe.rollout
    return base_rollout.RolloutConfig(
        max_tokens_to_generate=config.max_new_tokens,
        max_prompt_length=config.max_prompt_length,
        kv_cache_size=config.cache_size,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        eos_tokens=list(tokenizer.end_ids(config.end_tokens)),
    )


def make_cluster(
    recipe: recipe_lib.Recipe,
    *,
    mesh: jax.sharding.Mesh,
    actor: nnx.Module,
    critic: nnx.Module,
    tokenizer: Tokenizer,
    reference: nnx.Module | None = None,
    directory: pathlib.Path | None = None,
    mends: Collection[str] = (),
) -> Cluster:
    """Builds the cluster.

    Args:
      recipe: Everything numeric.
      mesh: Devices of every role.
      actor: The policy, with LoRA.
      critic: The value model.
      tokenizer: The tokenizer.
      reference: Frozen policy for the KL penalty; needed if `ppo.beta` > 0.
      directory: Where `checkpoints/` and `tensorboard/` go; none writes neither.
      mends: Ids in `harness.upstream.ledger` of the defects to mend.

    Returns:
      The cluster.
    """
    batching = recipe.batching
    # Orbax refuses relative folders, and only at the first checkpoint.
    directory = directory.absolute() if directory else None
    training = rl_cluster.RLTrainingConfig(
        actor_optimizer=make_optimizer(recipe, recipe.optimizers.actor_learning_rate),
        critic_optimizer=make_optimizer(recipe, recipe.optimizers.critic_learning_rate),
        max_steps=accounting.max_steps(recipe),
        eval_every_n_steps=recipe.evaluation.every_n_steps,
        mini_batch_size=batching.mini_batch,
        train_micro_batch_size=batching.train_micro_batch,
        rollout_micro_batch_size=batching.rollout_micro_batch,
        compute_logps_micro_batch_size=batching.logps_micro_batch,
        checkpoint_root_directory=str(directory / "checkpoints") if directory else None,
        checkpointing_options=ocp.CheckpointManagerOptions(
            save_interval_steps=recipe.checkpoints.save_interval_steps,
            max_to_keep=recipe.checkpoints.max_to_keep,
        ),
        metrics_logging_options=metrics_logger.MetricsLoggerOptions(
            log_dir=str(directory / "tensorboard"), flush_every_n_steps=20
        )
        if directory
        else None,
    )
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.CRITIC, rl_cluster.Role.ROLLOUT)
    config = rl_cluster.ClusterConfig(
        role_to_mesh=dict.fromkeys((*roles, rl_cluster.Role.REFERENCE), mesh),
        training_config=training,
        rollout_config=rollout_config(recipe, tokenizer),
        rollout_engine=_rollout_engine(recipe, mends),
    )
    return rl_cluster.RLCluster(
        actor=actor,
        critic=critic,
        reference=reference,
        tokenizer=tokenizer,
        cluster_config=config,
    )


def _rollout_engine(recipe: recipe_lib.Recipe, mends: Collection[str]) -> Any:
    keep_end_token, fresh_noise = "end-token-dropped" in mends, "noise-repeats" in mends
    if not (keep_end_token or fresh_noise):
        return "vanilla"
    return functools.partial(
        rollout.MendedRollout,
        keep_end_token=keep_end_token,
        fresh_noise=fresh_noise,
        seed=recipe.seed,
    )
