"""Advantages depend on micro-batch sizes that should only affect speed.

Expected: `rollout_micro_batch_size` and `compute_logps_micro_batch_size` do not change
the advantages of a batch.
Got: advantages are whitened over lcm(rollout, log-prob micro-batch) sequences.
"""

import contextlib
import types
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from tunix.rl import rl_learner

from harness.upstream.engine import points
from harness.upstream.fixes._prelude import Table, reward_column, toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether two micro-batches of one optimizer step are prepared apart."""
    groups: list[int] = []

    def process(*, micro_batches: list[Any], micro_batch_sizes: list[int], mode: Any) -> list[Any]:
        if micro_batches:
            groups.append(len(micro_batches))
        return list(micro_batches)

    none = contextlib.nullcontext()
    cluster = types.SimpleNamespace(
        perf=types.SimpleNamespace(span=lambda *args: none),
        perf_v2=types.SimpleNamespace(span=lambda *args, **kwargs: none),
        global_steps=0,
        buffer_metrics=lambda *args, **kwargs: None,
    )
    learner = types.SimpleNamespace(
        rl_cluster=cluster,
        _iter_steps=0,
        _last_iter_step=0,
        _eval_iter_steps=0,
        _data_shuffle_seed=None,
        _compute_trajectory_ids=lambda example, step: [],
        _process_accumulated_batches=process,
    )
    rl_learner.RLLearner._prepare_data(
        cast(Any, learner),
        iterator=cast(Any, iter([{"prompts": np.array(["a"])}, {"prompts": np.array(["b"])}])),
        proceed_num_steps=2,
        sample_repeat=1,
        batch_repeat=1,
        service_target_batch_size=1,
        data_queue=cast(Any, types.SimpleNamespace(put=lambda item: None)),
    )
    return len(groups) > 1


ISSUE = KnownIssue(
    id="whitening-group",
    title="Advantages are whitened over a rollout group, not over the mini-batch.",
    where="tunix/rl/rl_learner.py:562",
    effect=(
        "The group is the least common multiple of two micro-batch sizes meant for speed: "
        "groups of one sequence learn nothing, groups of four lose what they have in common."
    ),
    fix="Advantages are computed once a mini-batch is generated.",
    probe=probe,
    shown_by=("advantages", "logged-figures"),
)


def first_advantages(micro_batch: int) -> np.ndarray:
    """Return the first advantages of four prompts with rewards 0 to 3, as the update has them."""
    learner = toy_learner(
        reward_column,
        actor=Table(1e3 * jax.nn.one_hot(jnp.full(8, 7), 8)),  # always writes token 7
        training={
            "max_steps": 1,
            "mini_batch_size": 4,
            "train_micro_batch_size": 2,
            "rollout_micro_batch_size": micro_batch,
            "compute_logps_micro_batch_size": micro_batch,
        },
    )
    found: list[np.ndarray] = []
    learner.rl_cluster.update_actor = lambda examples, *_: found.append(
        np.asarray(examples[0].advantages[:, 0])
    )
    learner.rl_cluster.update_critic = lambda *_: None
    learner.train([toy_batch("abcd", reward=np.arange(4.0))])
    return np.concatenate(found)


def reproduce() -> bool:
    """Return whether the issue shows."""
    whole, halves = first_advantages(4), first_advantages(2)
    print(f"expected: advantages of {whole.round(2)} with micro-batches of 4 and of 2")
    print(f"got: {halves.round(2)} with micro-batches of 2")
    return not np.allclose(whole, halves, atol=0.01)


class Fix(points.Fix):
    """Whiten over all that is behind an optimizer step, whatever the micro-batches."""

    def group_size(self, group: int, whole: int | None) -> int:
        return whole or group
