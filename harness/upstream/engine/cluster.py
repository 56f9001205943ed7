"""Upstream's cluster of actor, critic, reference and rollout, from a recipe."""

import contextlib
import errno
import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from flax import nnx
from orbax import checkpoint as ocp
from tunix.rl import rl_cluster
from tunix.rl.rollout import base_rollout

from harness import errors, models
from harness import recipe as recipe_lib
from harness.measure import memory
from harness.tokenizer import Tokenizer
from harness.upstream import compat
from harness.upstream.engine import backends, precision, rollout, saving, writers
from harness.upstream.engine.points import Fix, chain
from harness.upstream.fixes import registry
from harness.upstream.selection import STOCK, Fixes

Cluster = rl_cluster.RLCluster


_NO_WRITING = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
)


class EngineCluster(rl_cluster.RLCluster):
    """Upstream's cluster that saves between two batches, both models or neither, and chosen fixes.

    Attributes:
      generation_mode: What the next generation is for: training or evaluation.
      checkpoint_due: Whether a checkpoint has fallen due since the last one.
      on_close: Called before both trainers are closed.
      fixes: What is fixed.
    """

    generation_mode = rl_cluster.Mode.TRAIN
    checkpoint_due = False
    on_close: Callable[[], None] | None = None

    def __init__(
        self, *, fixes: Sequence[Fix], note: Mapping[str, str] | None = None, **kwargs: Any
    ):
        """Build upstream's cluster; see there.

        Args:
          fixes: What is fixed.
          note: Written into the metadata of each checkpoint.
          **kwargs: Upstream's arguments.
        """
        self.fixes = fixes
        self._note = dict(note or {})
        for fix in fixes:
            fix.critic(kwargs["critic"])
        with saving.bounded(kwargs["actor"], kwargs["critic"]):
            super().__init__(**kwargs)
        for trainer in (self.actor_trainer, self.critic_trainer):
            self._hold_back_checkpoints(trainer)
            _describe_last_checkpoint(self, trainer)
        for fix in fixes:
            fix.cluster(self)

    def _init_cluster(self) -> None:
        chain(self.fixes, "init_cluster", rl_cluster.RLCluster._init_cluster)(self)

    def generate(self, *args: Any, **kwargs: Any) -> base_rollout.RolloutOutput:
        """Sample; see upstream."""
        for fix in self.fixes:
            fix.generation_arguments(self, kwargs)
        return super().generate(*args, **kwargs)

    def get_values(
        self, prompt_tokens: jax.Array, completion_tokens: jax.Array, pad_id: int, eos_id: int
    ) -> jax.Array:
        """Compute values [B, P + T]; see upstream."""
        compute: Callable[..., jax.Array] = super().get_values
        for fix in self.fixes:
            compute = fix.values(self, compute)
        return compute(prompt_tokens, completion_tokens, pad_id, eos_id)

    def _hold_back_checkpoints(self, trainer: Any) -> None:
        """Let a checkpoint that falls due within a batch wait for its end."""
        manager = trainer.checkpoint_manager
        save = manager.save

        def held(step: int, *args: Any, force: bool = False, **kwargs: Any) -> bool:
            if force:
                return save(step, *args, force=True, **kwargs)
            orbax = manager._checkpoint_manager
            self.checkpoint_due |= orbax is not None and orbax.should_save(step)
            return False

        manager.save = held

    def save_checkpoints(self) -> int:
        """Save both models between two batches, and waits until both are on the disk.

        Returns:
          The optimizer step that they are of; it is saved once.

        Raises:
          HarnessError: The disk is full, or the like.
        """
        trainers: tuple[Any, Any] = (self.actor_trainer, self.critic_trainer)
        step = trainers[0].train_steps
        self._check_room(step, trainers)
        try:
            for role, trainer in zip(("actor", "critic"), trainers, strict=True):
                manager = trainer.checkpoint_manager
                if manager._checkpoint_manager is None or manager.latest_step() == step:
                    continue
                manager.save(
                    step,
                    trainer.model,
                    trainer.optimizer,
                    save_only_lora_params=trainer._lora_enabled,
                    force=True,
                    custom_metadata={"global_step": self.global_steps, "role": role, **self._note},
                )
            for trainer in trainers:
                if trainer.checkpoint_manager._checkpoint_manager is not None:
                    trainer.checkpoint_manager._checkpoint_manager.wait_until_finished()
        except Exception as error:  # Orbax and TensorStore raise what they like
            for trainer in trainers:  # nothing is written while the errors are read
                with contextlib.suppress(Exception):
                    trainer.checkpoint_manager._checkpoint_manager.wait_until_finished()
            text = " ".join(str(error).split())
            # The system's message stands at the end of what each layer puts before it.
            reasons = [os.strerror(number) for number in _NO_WRITING]
            reason = next((each for each in reasons if each in text), text[:200])
            reason = reason or type(error).__name__
            raise errors.RunStopped(
                f"the checkpoint of step {step} cannot be written ({reason}): make room, then go "
                "on from the one before by --resume"
            ) from None
        memory.give_back()
        self.checkpoint_due = False
        return step

    def _check_room(self, step: int, trainers: Any) -> None:
        """Refuse to begin what the disk cannot hold.

        Orbax may wait for ever for a write that failed in its worker.
        """
        root = trainers[0].config.checkpoint_root_directory
        if root is None or not os.path.isdir(root):
            return
        needed = 0
        for trainer in trainers:
            trained = nnx.LoRAParam if trainer._lora_enabled else nnx.Param
            moments = nnx.state(trainer.optimizer, nnx.optimizer.OptState)
            leaves = jax.tree.leaves((nnx.state(trainer.model, trained), moments))
            needed += sum(leaf.nbytes for leaf in leaves if hasattr(leaf, "nbytes"))
        free = shutil.disk_usage(root).free
        if free < needed:
            raise errors.RunStopped(
                f"the checkpoint of step {step} cannot be written (it takes {needed:,} bytes, "
                f"{free:,} are free): make room, then go on from the one before by --resume"
            )

    def close(self) -> None:
        """Write what is left and closes both trainers."""
        if self.on_close is not None:
            self.on_close()
        for fix in self.fixes:
            fix.close(self)
        super().close()


def _describe_last_checkpoint(cluster: rl_cluster.RLCluster, trainer: Any) -> None:
    """Let the checkpoint that a trainer makes when it closes carry its global step."""
    save = trainer.checkpoint_manager.save

    def described(*args: Any, **kwargs: Any) -> bool:
        if kwargs.get("custom_metadata") is None:
            # Trainers add one, since they save before a step is counted; when
            # they close it has been.
            kwargs["custom_metadata"] = {
                **trainer.custom_checkpoint_metadata(),
                "global_step": cluster.global_steps,
            }
        return save(*args, **kwargs)

    trainer.checkpoint_manager.save = described


def make_optimizer(recipe: recipe_lib.Recipe, peak: float) -> optax.GradientTransformation:
    """Build AdamW with warm-up, cosine decay and global-norm clipping.

    Args:
      recipe: Decay rates, clipping, number of steps, and the dtypes of weights and moments.
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
    dtypes = recipe.precision
    if not dtypes.trained_dtype == dtypes.moments_dtype == "float32":
        # Without the clipping, whose float32 gradients would all be there at once.
        optimizer = models.with_moments_in(optimizer, dtypes.moments_dtype)
    if config.max_grad_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optimizer)


def make_schedule(recipe: recipe_lib.Recipe, peak: float) -> optax.Schedule:
    """Build the learning rate: linear from 0 to `peak`, then cosine to 0.

    Args:
      recipe: Share of warm-up, and the step at which the rate is 0 again.
      peak: Peak learning rate.

    Returns:
      Learning rate by optimizer step, counted from 0.
    """
    steps = recipe_lib.max_steps(recipe)
    return optax.schedules.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=recipe.optimizers.warmup_fraction * steps,  # type: ignore[arg-type]
        decay_steps=steps,
        end_value=0.0,
    )


def rollout_config(
    recipe: recipe_lib.Recipe, tokenizer: Tokenizer, log_probs: bool = False
) -> base_rollout.RolloutConfig:
    """Return upstream's sampling configuration."""
    config = recipe.rollout
    return base_rollout.RolloutConfig(
        max_tokens_to_generate=config.max_new_tokens,
        max_prompt_length=config.max_prompt_length,
        kv_cache_size=config.cache_size,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        eos_tokens=list(tokenizer.end_ids(config.stop_tokens)),
        return_logprobs=log_probs,
    )


def _training_config(
    recipe: recipe_lib.Recipe, directory: pathlib.Path | None, run: str | None
) -> rl_cluster.RLTrainingConfig:
    """Return upstream's configuration of optimizers, batches, checkpoints and figures."""
    batching = recipe.batching
    # Orbax refuses relative folders, and only at the first checkpoint.
    directory = directory.absolute() if directory else None
    return rl_cluster.RLTrainingConfig(
        actor_optimizer=make_optimizer(recipe, recipe.optimizers.actor_learning_rate),
        critic_optimizer=make_optimizer(recipe, recipe.optimizers.critic_learning_rate),
        max_steps=recipe_lib.max_steps(recipe),
        eval_every_n_steps=recipe.evaluation.every_n_steps,
        mini_batch_size=batching.mini_batch_size,
        train_micro_batch_size=batching.train_micro_batch_size,
        rollout_micro_batch_size=batching.rollout_micro_batch_size,
        compute_logps_micro_batch_size=batching.compute_logps_micro_batch_size,
        checkpoint_root_directory=str(directory / "checkpoints") if directory else None,
        checkpointing_options=ocp.CheckpointManagerOptions(
            save_interval_steps=recipe.checkpoints.save_interval_steps,
            max_to_keep=recipe.checkpoints.max_to_keep,
        ),
        metrics_logging_options=backends.logger_options(recipe, directory, run)
        if directory
        else None,
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
    fixes: Fixes = STOCK,
    log_probs: bool = False,
    note: Mapping[str, str] | None = None,
) -> Cluster:
    """Build the cluster.

    Args:
      recipe: Everything numeric.
      mesh: Devices of every role.
      actor: The policy, with LoRA.
      critic: The value model.
      tokenizer: The tokenizer.
      reference: Frozen policy for the KL penalty; needed if `ppo.beta` > 0.
      directory: Where `checkpoints/`, and the figures of `metrics.backends`, go;
        none writes neither.
      fixes: Fixes to put in place.
      log_probs: Whether the rollout worker also gives the sampler's log-probs.
      note: Written into the metadata of each checkpoint, stock Tunix apart.

    Returns:
      The cluster.

    Raises:
      HarnessError: The recipe asks stock Tunix for a dtype that it has no setting for.
    """
    if fixes.stock:
        precision.check_stock(recipe)
    training = _training_config(recipe, directory, (note or {}).get("run"))
    in_place = registry.fixes_of(fixes)
    for fix in in_place:
        fix.training(training)
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.CRITIC, rl_cluster.Role.ROLLOUT)
    config = rl_cluster.ClusterConfig(
        role_to_mesh=dict.fromkeys((*roles, rl_cluster.Role.REFERENCE), mesh),
        training_config=training,
        rollout_config=rollout_config(recipe, tokenizer, log_probs),
        rollout_engine="vanilla" if fixes.stock else _rollout_engine(recipe, in_place),
    )
    arguments: dict[str, Any] = {
        "actor": actor,
        "critic": critic,
        "reference": reference,
        "tokenizer": tokenizer,
        "cluster_config": config,
    }
    with precision.accumulating_in(recipe.precision.accumulators_dtype):
        made = (
            rl_cluster.RLCluster(**arguments)
            if fixes.stock
            else EngineCluster(fixes=in_place, note=note, **arguments)
        )
    compat.hide_bars(made.actor_trainer, made.critic_trainer)
    writers.watch(made._rl_metrics_logger)
    return made


def _rollout_engine(recipe: recipe_lib.Recipe, fixes: Sequence[Fix]) -> Any:
    return functools.partial(
        rollout.EngineRollout,
        fixes=fixes,
        seed=recipe.seed,
        dtype=recipe.rollout.dtype,
    )
