"""The logged perplexity is the exponential of the policy loss.

Expected: a uniform policy over six tokens has perplexity 6.
Got: about 1, as the policy loss of a first update is about 0. The critic's is the
exponential of a squared error.
"""

from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="perplexity-of-policy-loss",
    title="The logged perplexity is the exponential of the policy loss.",
    where="tunix/sft/peft_trainer.py:472",
    effect="A figure without meaning stands in every log.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    learner = toy_learner(training={"max_steps": 1})
    learner.train([toy_batch("ab")])
    history = learner.rl_cluster.actor_trainer.metrics_logger.get_metric_history(
        "actor", "perplexity", "train"
    )
    print("expected: 6.0")
    print(f"got: {history[0]:.1f}")
    return bool(abs(history[0] - 1.0) < 1e-3)
