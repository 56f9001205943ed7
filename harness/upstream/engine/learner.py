"""Upstream's PPO learner from a recipe: what a run needs of it, and fixes of losses and data."""

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import jax
import jax.monitoring
import numpy as np
from tunix.rl import rl_cluster
from tunix.rl.ppo import ppo_learner

from harness import errors
from harness import recipe as recipe_lib
from harness.upstream import rebind
from harness.upstream.engine import cluster as cluster_lib
from harness.upstream.engine import keys, passes
from harness.upstream.engine.points import Fix, chain
from harness.upstream.fixes import registry
from harness.upstream.selection import STOCK, Fixes

RewardFn = Callable[..., Sequence[float]]
Learner = ppo_learner.PPOLearner
TrainExample = ppo_learner.TrainExample


class Watcher(Protocol):
    """What a learner reports to; each call may end the training by raising."""

    def doing(self, what: str, global_step: int) -> None:
        """Record that `rollout`, `train` or `checkpoint` begins, in global step 0, 1, ..."""
        ...

    def mini_batch_ended(self, examples: Sequence[TrainExample]) -> None:
        """Record that all epochs on a mini-batch are done and logged.

        Args:
          examples: Its micro-batches.
        """
        ...

    def batch_ended(self, global_steps: int) -> bool:
        """Record that a batch is done and logged.

        Args:
          global_steps: Batches done, resumes included.

        Returns:
          Whether a checkpoint is wanted now, due or not.
        """
        ...

    def checkpoint_saved(self, step: int, global_steps: int) -> None:
        """Record that both models are on the disk, as of an optimizer step."""
        ...


class EngineLearner(ppo_learner.PPOLearner):
    """Upstream's PPO learner that a run can be stopped and gone on with, and chosen fixes.

    Whatever is fixed, it goes on at the batch after the last that was saved, with the noise and
    the order that a run without a break has there, saves between two batches alone, and reports
    what it does to a watcher.
    """

    def __init__(
        self,
        *,
        fixes: Sequence[Fix],
        temperature: float,
        watcher: Watcher | None = None,
        **kwargs: Any,
    ):
        """Build upstream's learner.

        Args:
          fixes: What is fixed.
          temperature: Temperature of the rollouts.
          watcher: Receives what happens.
          **kwargs: Upstream's arguments; the cluster must be a `EngineCluster`.
        """
        self.fixes = fixes
        self._watcher = watcher
        self._examples: list[Any] = []
        super().__init__(**kwargs)
        _check_together(self.rl_cluster)
        self._batches_ended = self.rl_cluster.global_steps
        self._cluster.on_close = functools.partial(self._end_batch, last=True)
        actor, critic = self.rl_cluster.actor_trainer, self.rl_cluster.critic_trainer
        policy_loss = chain(fixes, "policy_loss", actor.loss_fn, temperature)
        actor.with_loss_fn(chain(fixes, "loss", policy_loss), has_aux=True)
        critic.with_loss_fn(chain(fixes, "loss", critic.loss_fn), has_aux=True)
        # Upstream skips data by a count of micro-batches, which each epoch uses again.
        self._last_iter_step = 0
        self._first_shuffle_seed = self._data_shuffle_seed
        self._sizes: passes.Sizes | None = None
        self._preparing = threading.Lock()
        self._whole_batches = any(fix.whole_batches for fix in fixes)
        compute = rebind.rebind(
            ppo_learner.PPOLearner._generate_and_compute_advantage,
            registry=_Registry(self.estimator),
        )
        self._compute_advantage = chain(fixes, "advantages", compute)

    def estimator(self, estimator: Callable[..., Any]) -> Callable[..., Any]:
        """Return an estimator of advantages as the learner uses it."""
        return chain(self.fixes, "estimator", estimator)

    @property
    def _cluster(self) -> cluster_lib.EngineCluster:
        return self.rl_cluster  # type: ignore[return-value]

    def train(
        self,
        train_ds: Iterable[Any],
        eval_ds: Iterable[Any] | None = None,
        skip_jit: bool = False,
    ) -> None:
        """Train on the batches after those that were trained on before a resume.

        Args:
          train_ds: All batches of the run, those that are done included.
          eval_ds: Batches for validation.
          skip_jit: As upstream's.
        """
        batches = itertools.islice(train_ds, self.rl_cluster.global_steps, None)
        first = next(batches, None)
        if first is None:
            self.rl_cluster.close()
            return
        # Trajectories are numbered by it; a run without a break would be there.
        self._iter_steps = self.rl_cluster.actor_trainer.iter_steps
        super().train(itertools.chain([first], batches), eval_ds, skip_jit)

    def _generate_and_compute_advantage(
        self, training_input: Any, mode: rl_cluster.Mode = rl_cluster.Mode.TRAIN
    ) -> TrainExample:
        self._cluster.generation_mode = mode
        return self._compute_advantage(self, training_input, mode)

    def _prepare_data(
        self,
        *args: Any,
        service_target_batch_size: int,
        mode: rl_cluster.Mode = rl_cluster.Mode.TRAIN,
        **kwargs: Any,
    ) -> None:
        training = mode == rl_cluster.Mode.TRAIN
        whole = self._sizes.batch if self._sizes else self._training_config.mini_batch_size
        for fix in self.fixes:
            service_target_batch_size = fix.group_size(service_target_batch_size, whole)
        kwargs.update(service_target_batch_size=service_target_batch_size, mode=mode)
        prepare = super()._prepare_data
        if training and self._sizes is not None:
            prepare = functools.partial(self._prepare_passes, prepare, self._sizes)
        elif training:
            # Groups that are generated one by one may be parts of an optimizer step.
            kwargs["data_queue"] = passes.OptimizerSteps(
                kwargs["data_queue"], self._accumulation(), self.weighted
            )
        if training:
            try:
                self._report("rollout")
            except BaseException:
                kwargs["data_queue"].put(None)  # or the trainers wait for data for ever
                raise
        # Validation is prepared on another thread, and both take from one seed.
        with self._preparing:
            if training:
                self._begin_mini_batch()
            prepare(*args, **kwargs)

    def _prepare_passes(
        self,
        prepare: Callable[..., None],
        sizes: passes.Sizes,
        *,
        data_queue: Any,
        batch_repeat: int,
        **kwargs: Any,
    ) -> None:
        """Generate a whole batch, then hand out each pass over it, cut anew."""
        collected = passes.Collector()
        key, self._data_shuffle_seed = self._data_shuffle_seed, None  # upstream's own order
        try:
            prepare(data_queue=collected, batch_repeat=1, **kwargs)
            drawn = None
            if key is not None:
                key, drawn = jax.random.split(key)
            orders = passes.permutations(drawn, sizes)
            passes.feed(
                data_queue, passes.micro_batches(collected.examples, orders, sizes), self.weighted
            )
        finally:
            self._data_shuffle_seed = key
            data_queue.put(None)  # the trainers wait for it, whatever happened

    def _run_mini_batch_step(self, *args: Any, **kwargs: Any) -> None:
        super()._run_mini_batch_step(*args, **kwargs)
        if self._watcher is not None:
            self._write_metrics()
            self._watcher.mini_batch_ended(self._examples)

    def _run_global_step(
        self,
        full_batch_size: int,
        mini_batch_size: int,
        service_target_batch_size: int,
        grad_acc_steps: int,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        # Upstream logs and counts a batch after this has returned.
        self._end_batch()
        if self._whole_batches and mini_batch_size < full_batch_size:
            # Upstream's loop over mini-batches samples each of them. It is given the batch as
            # one; the trainers count micro-batches, and still step after each mini-batch.
            self._sizes = passes.Sizes(
                batch=full_batch_size,
                mini_batch=mini_batch_size,
                micro_batch=mini_batch_size // grad_acc_steps,
                passes=self._num_iterations(),
            )
            grad_acc_steps *= full_batch_size // mini_batch_size
            mini_batch_size = full_batch_size
        super()._run_global_step(
            full_batch_size,
            mini_batch_size,
            service_target_batch_size,
            grad_acc_steps,
            *args,
            **kwargs,
        )

    def _end_batch(self, *, last: bool = False) -> None:
        """Do what is due between two batches, or after the last."""
        cluster = self._cluster
        done, wanted = cluster.global_steps, last
        if done > self._batches_ended:
            self._batches_ended = done
            if self._watcher is not None:
                self._write_metrics()
                wanted |= self._watcher.batch_ended(done)
        if wanted or cluster.checkpoint_due:
            self._report("checkpoint")
            step = cluster.save_checkpoints()
            if self._watcher is not None:
                self._watcher.checkpoint_saved(step, done)

    def _write_metrics(self) -> None:
        """Write the figures that the trainers hold back until their next step."""
        for trainer in (self.rl_cluster.actor_trainer, self.rl_cluster.critic_trainer):
            if trainer._prev_buffered_train_metrics is not None:
                trainer._write_train_metrics()

    def _report(self, what: str) -> None:
        if self._watcher is not None:
            self._watcher.doing(what, self.rl_cluster.global_steps)

    def _begin_mini_batch(self) -> None:
        """Let noise and order follow from the number of the mini-batch, not of the call."""
        steps = self._accumulation() * self._num_iterations()
        number = self.rl_cluster.actor_trainer.iter_steps // steps
        if self._first_shuffle_seed is not None:
            self._data_shuffle_seed = keys.fold_in(self._first_shuffle_seed, number)
        worker: Any = self.rl_cluster.rollout
        worker.begin_mini_batch(number)

    def _process_accumulated_batches(self, *args: Any, **kwargs: Any) -> list[Any]:
        examples = super()._process_accumulated_batches(*args, **kwargs)
        if self._watcher is not None and kwargs.get("mode") == rl_cluster.Mode.TRAIN:
            self._examples = examples
            self._report("train")
        if kwargs.get("mode") == rl_cluster.Mode.TRAIN:
            return examples  # weighted once they are cut for an optimizer step
        return self.weighted(examples)

    def _accumulation(self) -> int:
        """Micro-batches of an optimizer step."""
        return self._training_config.get_with_default("gradient_accumulation_steps", 1)

    def weighted(self, examples: list[Any]) -> list[Any]:
        """Let fixes change the micro-batches of an optimizer step."""
        return chain(self.fixes, "weigh", examples)


def _check_together(cluster: Any) -> None:
    steps = [each.train_steps for each in (cluster.actor_trainer, cluster.critic_trainer)]
    if steps[0] != steps[1]:
        raise errors.RunStopped(
            f"the actor was restored at optimizer step {steps[0]} and the critic at {steps[1]}: "
            "remove the later checkpoint, so that both go on from one step"
        )


class _Registry:
    """Upstream's registry of functions with another advantage estimator."""

    def __init__(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]):
        self._change = change

    def get(self, kind: str, name: str) -> Callable[..., Any]:
        found = ppo_learner.registry.get(kind, name)
        return self._change(found) if kind == "advantage_estimator" else found


def ppo_config(ppo: recipe_lib.Ppo, fixes: Sequence[Fix] = ()) -> ppo_learner.PPOConfig:
    """Return upstream's configuration of the algorithm."""
    config = ppo_learner.PPOConfig(
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
    for fix in fixes:
        fix.algorithm(config, ppo)
    return config


def make_learner(
    recipe: recipe_lib.Recipe,
    *,
    cluster: cluster_lib.Cluster,
    reward_fn: RewardFn,
    fixes: Fixes = STOCK,
    watcher: Watcher | None = None,
) -> Learner:
    """Build the PPO learner.

    Args:
      recipe: The algorithm's numbers and the seed.
      cluster: The models.
      reward_fn: Scores completions; see `harness.rewards`.
      fixes: Fixes to put in place; the cluster must have been made with the same.
      watcher: Receives what a learner does that is not stock.

    Returns:
      A learner; `train` runs it.
    """
    in_place = registry.fixes_of(fixes)
    arguments: dict[str, Any] = {
        "rl_cluster": cluster,
        "ppo_config": ppo_config(recipe.ppo, in_place),
        "reward_fns": reward_fn,
        "metric_fns": [_format_rate],
        "data_shuffle_seed": recipe.seed,
    }
    if fixes.stock:
        return ppo_learner.PPOLearner(**arguments)
    return EngineLearner(
        fixes=in_place, temperature=recipe.rollout.temperature, watcher=watcher, **arguments
    )


def release(learner: Learner) -> None:
    """Return back what a learner leaves behind when it has trained, or never did.

    That is the thread on which it prepares batches, and TensorBoard's listeners in
    `jax.monitoring`, which otherwise receive every later training of the process.

    Args:
      learner: It must not be used afterwards.
    """
    learner.executor.shutdown()
    logger: Any = learner.rl_cluster.actor_trainer.metrics_logger
    for backend in logger._backends:
        # JAX asserts that the listener is there; it need not be.
        with contextlib.suppress(AssertionError, ValueError):
            jax.monitoring.unregister_scalar_listener(backend.log_scalar)


def _format_rate(
    prompts: Any, completions: Any, rewards: np.ndarray, **columns: Any
) -> dict[str, Any]:
    """Return the share of completions with any score, hence a well-formed answer."""
    del prompts, completions, columns
    return {"rewards/format_rate": (float(np.mean(np.asarray(rewards) > 0)), np.mean)}
