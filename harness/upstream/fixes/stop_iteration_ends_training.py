"""A StopIteration in a reward function is taken for the end of the data.

Expected: the error of a reward function that calls `next` on an empty iterator is raised.
Got: training ends after no steps, without an error, as if it were complete.
"""

from typing import Any

from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="stop-iteration-ends-training",
    title="StopIteration in a reward function counts as the end of the data.",
    where="tunix/rl/rl_learner.py:467",
    effect="Training ends early and looks complete.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""

    def reward(prompts: Any, **_: Any) -> list[float]:
        return [next(iter([]))]

    learner = toy_learner(reward, training={"max_steps": 5})
    try:
        learner.train([toy_batch("a")] * 5)
        error = "none"
    except Exception as raised:
        error = type(raised).__name__
    steps = learner.rl_cluster.actor_trainer.train_steps
    print("expected: error: StopIteration or RuntimeError")
    print(f"got: error: {error}, after {steps} of 5 steps")
    return error == "none" and steps == 0
