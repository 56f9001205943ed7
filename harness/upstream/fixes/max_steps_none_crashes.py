"""Without `max_steps`, its default, training fails after the first batch.

Expected: max_steps=None trains on all three batches.
Got: a TypeError after the first one; nothing is closed and no checkpoint is saved.
"""

from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="max-steps-none-crashes",
    title="max_steps=None, the default, fails after the first batch.",
    where="tunix/rl/rl_learner.py:626",
    effect="The run ends without a checkpoint.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    learner = toy_learner()
    try:
        learner.train([toy_batch("ab")] * 3)
        error = "none"
    except TypeError as raised:
        error = str(raised)
    steps = learner.rl_cluster.actor_trainer.train_steps
    print("expected: 3 optimizer steps, error: none")
    print(f"got: {steps}, error: {error}")
    return steps == 1 and "NoneType" in error
