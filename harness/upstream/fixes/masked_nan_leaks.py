"""NaN at a masked place reaches the advantages and the loss.

Expected: masked places have no effect.
Got: NaN. Masks are applied by multiplication, and 0 times NaN is NaN.
"""

import jax.numpy as jnp
import numpy as np
from tunix.rl.ppo import ppo_learner

from harness.upstream import versions
from harness.upstream.fixes._prelude import Table, padded_example, policy_loss
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether NaN under the mask reaches a mean."""
    return bool(
        jnp.isnan(versions.algorithms.masked_mean(jnp.array([1.0, jnp.nan]), jnp.array([1.0, 0.0])))
    )


ISSUE = KnownIssue(
    id="masked-nan-leaks",
    title="NaN at a masked place leaks into advantages and losses.",
    where="tunix/rl/algo_core.py:137",
    effect="A product with a mask of 0 is NaN: one bad pad spoils the batch.",
    mend="Masked places are set to 0 before the estimator and the losses.",
    probe=probe,
    shown_by=("masked-nan-does-not-count", "gae-masked"),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    advantages, _ = ppo_learner.registry.get("advantage_estimator", "gae")(
        rewards=jnp.array([[0.0, 1.0, 0.0]]),
        values=jnp.array([[0.2, 0.1, jnp.nan]]),
        completion_mask=jnp.array([[1, 1, 0]]),  # the last position is padding
        gamma=1.0,
        gae_lambda=1.0,
    )
    loss, _ = policy_loss(Table(jnp.zeros((8, 8))), padded_example(jnp.nan))
    print("expected: finite advantages at the valid places and a finite loss")
    print(f"got: advantages {advantages[0, :2].tolist()}, loss {float(loss)}")
    return bool(np.isnan(advantages[0, :2]).any() and np.isnan(loss))
