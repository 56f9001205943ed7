"""A last batch smaller than the first is sampled, rewarded and dropped.

Expected: batches of four and of two prompts, in micro-batches of two, are both trained on
(they are, in micro-batches of four), or the second is not sampled.
Got: all six prompts are rewarded, but there is one update.
"""

from typing import Any

from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="trailing-batch-dropped",
    title="A smaller last batch is generated, rewarded and dropped.",
    where="tunix/rl/rl_learner.py:467",
    effect="The last rows of the data are never trained on.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    seen: list[str] = []

    def reward(prompts: Any, **_: Any) -> list[float]:
        seen.extend(prompts.tolist())
        return [1.0] * len(prompts)

    training = {"max_steps": 100, "mini_batch_size": 4, "train_micro_batch_size": 2}
    learner = toy_learner(reward, training=training)
    learner.train([toy_batch("abcd"), toy_batch("ab")])
    steps = learner.rl_cluster.actor_trainer.train_steps
    print("expected: 6 prompts rewarded and 2 updates, or 4 and 1")
    print(f"got: {len(seen)} prompts rewarded, {steps} update(s)")
    return len(seen) == 6 and steps == 1
