"""The logged gradient norm is not that of the gradient.

Expected: two micro-batches whose gradients cancel are logged with a gradient norm of 0,
that of the gradient which the optimizer is given.
Got: the mean of the two norms, 0.91.
"""

import jax.numpy as jnp
import numpy as np

from harness.upstream.fixes._prelude import toy_example, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="grad-norm-of-micro-batches",
    title="The logged gradient norm is a mean of the norms of micro-batches.",
    where="tunix/sft/peft_trainer.py:716",
    effect="It is not the norm that is clipped.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    learner = toy_learner(training={"mini_batch_size": 2, "train_micro_batch_size": 1})
    trainer = learner.rl_cluster.actor_trainer
    log_prob = -float(np.log(6))  # of any of the six tokens
    before = trainer.model.table[...].copy()
    trainer.train([toy_example(1, log_prob, 1.0), toy_example(1, log_prob, -1.0)])
    trainer.close()
    moved = float(jnp.abs(trainer.model.table[...] - before).max())
    norm = trainer.metrics_logger.get_metric_history("actor", "grad_norm", "train")[0]
    print(f"expected: 0.00, as the parameters moved by {moved:.2f}")
    print(f"got: {norm:.2f}")
    return moved < 1e-6 and bool(norm > 0.5)
