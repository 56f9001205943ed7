"""Upstream's real training loop around models that do nothing but note what they are given.

Learner, trainers, queues, counters and checkpoints are upstream's. Only what
XLA would compile is replaced, so that a whole schedule runs in a moment.
"""

import dataclasses
import functools
import gc
import pathlib
import shutil
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.rl import rl_cluster
from tunix.rl.rollout import base_rollout

from harness import models
from harness import recipe as recipe_lib
from harness.tokenizer import Tokenizer
from harness.upstream import hooks
from harness.upstream.engine import cluster as cluster_lib
from harness.upstream.engine import learner as learner_lib
from harness.upstream.instrument import trace as trace_lib
from harness.upstream.selection import Fixes

# Numbers of validation problems begin here.
VALIDATION = 100_000
# Token ids below are pad, end and other special tokens.
_FIRST_TOKEN = 10
_NO_PROMPT = -1
_COLLECT = hooks.Hook("the collection of garbage", lambda of: gc, "collect")


@dataclasses.dataclass(frozen=True)
class Draw:
    """One call of the sampler.

    Attributes:
      problems: Numbers of the problems that were asked.
      train_steps: The actor's optimizer steps at that moment.
      temperature: Of the configuration that reached the sampler.
      top_p: Of the same.
    """

    problems: tuple[int, ...]
    train_steps: int
    temperature: float
    top_p: float | None

    @property
    def evaluation(self) -> bool:
        """Whether it was asked for validation."""
        return self.problems[0] >= VALIDATION


@dataclasses.dataclass(frozen=True)
class Step:
    """One micro-batch that a trainer was given.

    Attributes:
      role: `actor` or `critic`.
      problems: Number of each row's problem; -1 for a row whose prompt,
        completion and reward are not of one problem.
      train_steps: The trainer's optimizer steps at that moment.
    """

    role: str
    problems: tuple[int, ...]
    train_steps: int


@dataclasses.dataclass(frozen=True)
class State:
    """A trainer between two steps.

    Attributes:
      weights: By path.
      moments: What the optimizer remembers, counts included, by path.
      train_steps: Optimizer steps done.
      iter_steps: Gradients taken.
    """

    weights: Mapping[str, np.ndarray]
    moments: Mapping[str, np.ndarray]
    train_steps: int
    iter_steps: int


@dataclasses.dataclass
class DryRun:
    """What happened.

    Attributes:
      draws: Calls of the sampler, in order.
      steps: Gradients, in order, both roles.
      looks: Validation micro-batches that were evaluated, in order, both roles.
      began: State of each role before the first step.
      ended: State of each role after the last step.
      first_global_step: Global step before the first step.
      global_steps: Global step after the last step.
    """

    draws: list[Draw] = dataclasses.field(default_factory=list)
    steps: list[Step] = dataclasses.field(default_factory=list)
    looks: list[Step] = dataclasses.field(default_factory=list)
    began: dict[str, State] = dataclasses.field(default_factory=dict)
    ended: dict[str, State] = dataclasses.field(default_factory=dict)
    first_global_step: int = 0
    global_steps: int = 0


class _Table(nnx.Module):
    """The least that upstream takes for a model."""

    config = types.SimpleNamespace(num_layers=1, num_kv_heads=1, head_dim=1)

    def __init__(self) -> None:
        self.table = nnx.Param(jnp.zeros(3))

    def __call__(self, tokens: Any, *args: Any, **kwargs: Any) -> None:
        """Is never called; upstream looks at its arguments."""


class _Note:
    """Stands for a compiled step: notes the rows, and moves all it could have moved."""

    jitted_fn = types.SimpleNamespace(_cache_size=lambda: 1)

    def __init__(self, role: str, trainer: Any, notes: list[Step], *, moves: bool):
        self._role, self._trainer, self._notes, self._moves = role, trainer, notes, moves

    def __call__(self, example: Any) -> Any:
        trainer = self._trainer
        self._notes.append(Step(self._role, _problems(example), trainer.train_steps))
        if self._moves:
            for thing, kind in (
                (trainer.model, nnx.Param),
                (trainer.optimizer, nnx.optimizer.OptState),
            ):
                nnx.update(thing, jax.tree.map(lambda leaf: leaf + 1, nnx.state(thing, kind)))
        return jnp.float32(0), dict.fromkeys(trainer.rl_metrics_to_log, 0.0)


class _Train(_Note):
    def __call__(self, example: Any) -> Any:
        return *super().__call__(example), jnp.float32(0)


def _problems(example: Any) -> tuple[int, ...]:
    """Read the problem of each row off its prompt, its completion and its return."""
    prompts = np.asarray(example.prompt_ids)[:, -1] - _FIRST_TOKEN
    completions = np.asarray(example.completion_ids)[:, 0] - _FIRST_TOKEN
    mask = np.asarray(example.completion_mask, bool)
    # What is left to earn at the last token is the score alone.
    last = np.where(mask, np.arange(mask.shape[1]), 0).max(axis=1)
    scores = np.asarray(example.returns)[np.arange(len(last)), last]
    one = (prompts == completions) & (prompts == scores)
    return tuple(int(number) for number in np.where(one, prompts, _NO_PROMPT))


def run(
    recipe: recipe_lib.Recipe,
    *,
    tokenizer: Tokenizer,
    fixes: Fixes,
    batches: int,
    validation: int = 0,
    directory: pathlib.Path | None = None,
    evaluation_config: Mapping[str, Any] | None = None,
) -> DryRun:
    """Train on numbered problems, without a model.

    Args:
      recipe: Sizes, epochs and limits; without a reference model.
      tokenizer: Any; upstream asks for one.
      fixes: The fixes in place.
      batches: Training batches; problem i is row `i % batch` of batch `i // batch`.
      validation: Validation batches, of problems from `VALIDATION` on.
      directory: Where checkpoints go, if anywhere; resumed from, if it has any.
      evaluation_config: Fields of upstream's sampling configuration that are
        other in evaluation.

    Returns:
      What happened.
    """
    # Upstream collects garbage several times while it builds a learner, which
    # takes longer than all the rest.
    with _COLLECT.wrapped(None, lambda collect: lambda: 0):
        cluster: Any = cluster_lib.make_cluster(
            recipe,
            mesh=models.make_mesh(recipe.sharding),
            actor=_Table(),
            critic=_Table(),
            tokenizer=tokenizer,
            directory=directory,
            fixes=fixes,
        )
        learner = learner_lib.make_learner(recipe, cluster=cluster, reward_fn=_number, fixes=fixes)
    if evaluation_config:
        train = cluster.cluster_config.rollout_config
        both = {
            rl_cluster.Mode.TRAIN: train,
            rl_cluster.Mode.EVAL: dataclasses.replace(train, **evaluation_config),
        }
        cluster.cluster_config = dataclasses.replace(cluster.cluster_config, rollout_config=both)
    found = DryRun(first_global_step=cluster.global_steps, began=states(learner))
    _play(learner, recipe, found, moves=directory is not None)
    size = recipe.batching.rollout_batch_size
    try:
        learner.train(
            [_batch(i * size, size) for i in range(batches)],
            [_batch(VALIDATION + i * size, size) for i in range(validation)] or None,
        )
    finally:
        learner_lib.release(learner)
    found.ended, found.global_steps = states(learner), cluster.global_steps
    return found


def _batch(first: int, size: int) -> dict[str, Any]:
    numbers = np.arange(first, first + size)
    return {"prompts": numbers.astype(str), "number": numbers}


def _number(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    del prompts, completions
    return [float(number) for number in columns["number"]]


def _play(learner: Any, recipe: recipe_lib.Recipe, found: DryRun, *, moves: bool) -> None:
    """Put notes in the place of everything that is compiled."""
    cluster = learner.rl_cluster
    width, longest = recipe.rollout.max_prompt_length, recipe.rollout.max_new_tokens

    def generate(prompts: Any, config: Any, **kwargs: Any) -> base_rollout.RolloutOutput:
        del kwargs
        numbers = [int(prompt) for prompt in prompts]
        steps = cluster.actor_trainer.train_steps
        found.draws.append(Draw(tuple(numbers), steps, config.temperature, config.top_p))
        rows = np.array(numbers)[:, None] + _FIRST_TOKEN
        return base_rollout.RolloutOutput(
            text=[str(number) for number in numbers],
            logits=[],
            tokens=[np.repeat(row, 1 + n % longest) for row, n in zip(rows, numbers, strict=True)],
            left_padded_prompt_tokens=np.repeat(rows, width, axis=1),
            logprobs=None,
        )

    def log_probs(prompt_ids: Any, completion_ids: Any, *args: Any, **kwargs: Any) -> jax.Array:
        del prompt_ids, args, kwargs
        return jnp.zeros(completion_ids.shape)

    def values(prompt_ids: Any, completion_ids: Any, *args: Any, **kwargs: Any) -> jax.Array:
        del args, kwargs
        return jnp.zeros((len(prompt_ids), prompt_ids.shape[1] + completion_ids.shape[1]))

    hooks.GENERATE.install(cluster, lambda plain: generate)
    hooks.LOG_PROBS.install(cluster, lambda plain: log_probs)
    hooks.VALUES.install(cluster, lambda plain: values)
    for role, trainer in _trainers(cluster).items():
        trainer._jitted_train_step_fn = functools.partial(
            _Train(role, trainer, found.steps, moves=moves)
        )
        trainer._jitted_eval_step_fn = _Note(role, trainer, found.looks, moves=False)


def _trainers(cluster: Any) -> dict[str, Any]:
    return {"actor": cluster.actor_trainer, "critic": cluster.critic_trainer}


def states(learner: learner_lib.Learner) -> dict[str, State]:
    """Copy weights, moments and counters of both trainers, by role."""
    return {
        role: State(
            weights=trace_lib.weights(trainer.model),
            moments=trace_lib._moments(trainer),
            train_steps=trainer.train_steps,
            iter_steps=trainer.iter_steps,
        )
        for role, trainer in _trainers(learner.rl_cluster).items()
    }


def randomness(learner: learner_lib.Learner) -> list[np.ndarray]:
    """Copy what the learner's next noise and next order of micro-batches follow from."""
    worker: Any = learner.rl_cluster.rollout
    seed = learner._data_shuffle_seed
    return [np.array(seed), np.array(getattr(worker, "calls", 0))]


def copy_checkpoints(source: pathlib.Path, target: pathlib.Path, step: int) -> None:
    """Copy a run's checkpoints up to an optimizer step, as if it had been cut there.

    Args:
      source: Folder of the run.
      target: Folder to make.
      step: Last optimizer step to copy.
    """
    for role in ("actor", "critic"):
        folder = source / "checkpoints" / role
        for each in folder.iterdir():
            if each.name.isdigit() and int(each.name) <= step:
                shutil.copytree(each, target / "checkpoints" / role / each.name)
