"""The share of clipped tokens is a mean over micro-batches, whatever their sizes.

Expected: of 1 clipped token in one micro-batch and 3 unclipped in another, a clip
fraction of 0.25.
Got: 0.5. The critic's `vf_clipfrac` and `vpred_mean` are averaged in the same way.
"""

import numpy as np

from harness.upstream.fixes._prelude import toy_example, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue
from harness.upstream.fixes.micro_batch_token_mean import probe

ISSUE = KnownIssue(
    id="clip-fraction-unweighted",
    title="Clip fractions are means over micro-batches of unequal token counts.",
    where="tunix/rl/ppo/ppo_learner.py:218",
    effect="The logged figure is not the share of the tokens.",
    fix="As micro-batch-token-mean: figures are weighed as the loss is.",
    probe=probe,
    shown_by=("losses",),
    fixed_with="micro-batch-token-mean",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    learner = toy_learner(training={"mini_batch_size": 2, "train_micro_batch_size": 1})
    trainer = learner.rl_cluster.actor_trainer
    log_prob = -float(np.log(6))  # of any of the six tokens
    trainer.train([toy_example(1, log_prob - 1.0, 1.0), toy_example(3, log_prob, 1.0)])
    trainer.close()
    history = trainer.metrics_logger.get_metric_history("actor", "pg_clipfrac", "train")
    print("expected: 0.25")
    print(f"got: {history[0]:.2f}")
    return bool(abs(history[0] - 0.5) < 1e-6)
