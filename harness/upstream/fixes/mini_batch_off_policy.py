"""A batch is not sampled at once: each mini-batch is sampled after the last one's update.

Expected: a batch of four prompts is sampled from one policy, then cut into two
mini-batches of two for two updates ("the rollout phase happens on a larger batch").
Got: the second mini-batch is sampled from the policy updated on the first.
"""

import contextlib
import types
from typing import Any, cast

import numpy as np
from tunix.rl import rl_learner

from harness.upstream.engine import points
from harness.upstream.fixes._prelude import reward_column, toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether each of a batch's two mini-batches is prepared and trained on by itself."""
    ran: list[Any] = []
    none = contextlib.nullcontext()
    learner = types.SimpleNamespace(
        rl_cluster=types.SimpleNamespace(
            perf=types.SimpleNamespace(span_group=lambda *args: none),
            actor_trainer=types.SimpleNamespace(iter_steps=0),
        ),
        _iter_steps=0,
        _run_mini_batch_step=lambda *args: ran.append(args),
    )
    rl_learner.RLLearner._run_global_step(
        cast(Any, learner), 4, 2, 2, 1, cast(Any, iter([])), None, False
    )
    return len(ran) > 1


ISSUE = KnownIssue(
    id="mini-batch-off-policy",
    title="Each mini-batch is generated after the update of the one before.",
    where="tunix/rl/rl_learner.py:644",
    effect=(
        "A rollout batch of 16 with mini-batches of 8 is two batches of 8, each on-policy: "
        "the batch size of the recipe is not the one that is generated, and no call of the "
        "sampler can take more rows than a mini-batch has. The tiny recipe, 100 batches of 64 "
        "in mini-batches of 16, seeds 0 to 2: accuracy 0.303, 0.383, 0.344 becomes 0.734, "
        "0.592, 0.623, and 0.766, 0.689, 0.693 with the fix (measured on a CPU)."
    ),
    fix=(
        "A batch is sampled, scored and whitened as one; then each epoch cuts it anew, row by "
        "row, into mini-batches and micro-batches."
    ),
    probe=probe,
    shown_by=("one-policy-per-batch", "schedule", "passes-are-shuffled", "resume-data"),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    learner = toy_learner(reward_column, training={"max_steps": 2, "mini_batch_size": 2})
    updates: list[int] = []
    cluster = learner.rl_cluster
    generate = cluster.rollout.generate

    def recorded(prompts: list[str], config: Any) -> Any:
        updates.extend([cluster.actor_trainer.train_steps] * len(prompts))
        return generate(prompts, config)

    cluster.rollout.generate = recorded
    learner.train([toy_batch("abcd", reward=np.arange(4.0))])
    print("expected: updates before each prompt of the batch is sampled: [0, 0, 0, 0]")
    print(f"got: {updates}")
    return any(updates)


class Fix(points.Fix):
    """Sample, score and whiten a batch as one, and cut it anew in each epoch."""

    whole_batches = True
