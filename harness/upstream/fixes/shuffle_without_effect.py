"""`data_shuffle_seed` changes nothing.

Expected: "The seed for shuffling the data": other seeds give other mini-batches, so other
parameters after two batches of two mini-batches.
Got: the same parameters. Only the micro-batches of one optimizer step are put in another
order, and their gradients are summed.
"""

import jax
import jax.numpy as jnp
import numpy as np

from harness.upstream.fixes._prelude import reward_column, toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue
from harness.upstream.fixes.mini_batch_off_policy import probe

ISSUE = KnownIssue(
    id="shuffle-without-effect",
    title="data_shuffle_seed changes nothing but the order of summands.",
    where="tunix/rl/rl_learner.py:330",
    effect="Mini-batches are the same in every epoch.",
    fix="As mini-batch-off-policy: each epoch cuts the batch anew.",
    probe=probe,
    shown_by=("passes-are-shuffled",),
    fixed_with="mini-batch-off-policy",
)


def trained(seed: int | None) -> jax.Array:
    """Return the policy's table after two batches, without the excluded columns."""
    learner = toy_learner(
        reward_column,
        data_shuffle_seed=seed,
        training={
            "max_steps": 100,
            "mini_batch_size": 2,
            "train_micro_batch_size": 1,
            "rollout_micro_batch_size": 2,
            "compute_logps_micro_batch_size": 2,
        },
    )
    learner.train([toy_batch("abcd", reward=np.array([0.0, 1.0, 5.0, 9.0]))] * 2)
    return learner.rl_cluster.actor_trainer.model.table[:, 2:]


def reproduce() -> bool:
    """Return whether the issue shows."""
    tables = [trained(seed) for seed in (None, 0, 1)]
    moved = float(jnp.abs(tables[0]).max())
    apart = max(float(jnp.abs(table - tables[0]).max()) for table in tables)
    print(f"expected: parameters, which moved by {moved:.3f}, that differ between seeds")
    print(f"got: they differ by {apart:.0e}")
    return moved > 0.01 and apart < 1e-6
