"""Training goes past `max_steps` to the end of the batch.

Expected: max_steps=3 gives three optimizer steps.
Got: four, with two PPO epochs. The limit is looked at after a whole batch.
"""

from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="max-steps-overshoot",
    title="max_steps is looked at only when a whole batch is done.",
    where="tunix/rl/rl_learner.py:626",
    effect="More updates than asked for, the last ones past the end of the learning rate.",
    shown_by=("max-steps",),
    releases=("0.1.7",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    learner = toy_learner(ppo={"num_iterations": 2}, training={"max_steps": 3})
    learner.train([toy_batch("ab")] * 5)
    steps = learner.rl_cluster.actor_trainer.train_steps
    print("expected: 3 optimizer steps")
    print(f"got: {steps}")
    return steps == 4
