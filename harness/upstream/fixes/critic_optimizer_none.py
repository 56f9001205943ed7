"""Without a critic optimizer no cluster can be built.

Expected: "If None, the critic model will be trained in the same optimizer as the actor
model" (RLTrainingConfig).
Got: an AttributeError: None is used as the optimizer.
"""

from harness.upstream.fixes._prelude import toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="critic-optimizer-none",
    title="critic_optimizer=None, as documented, cannot be built.",
    where="tunix/rl/rl_cluster.py:550",
    effect="The run fails at its start.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    try:
        toy_learner(training={"critic_optimizer": None, "max_steps": 1})
        error = "none"
    except AttributeError as raised:
        error = str(raised)
    print("expected: error: none")
    print(f"got: error: {error}")
    return error != "none"
