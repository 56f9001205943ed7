"""The entropy is NaN where a token has a logit of minus infinity.

Expected: the entropy of logits (0, 0, -inf) is log 2, with a finite gradient.
Got: NaN, and a gradient of NaN: 0 times minus infinity is summed.
"""

import jax
import jax.numpy as jnp
import numpy as np
from tunix.rl.ppo import ppo_learner

from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="entropy-of-excluded-tokens-nan",
    title="Entropy is NaN where a logit is -inf.",
    where="tunix/rl/algo_core.py:172",
    effect="With an entropy bonus, a model that excludes tokens has gradients of NaN.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    logits = jnp.array([[[0.0, 0.0, -jnp.inf]]])
    entropy, gradient = jax.value_and_grad(
        lambda logits: ppo_learner.ppo_helpers.compute_entropy_from_logits(logits).sum()
    )(logits)
    print(f"expected: {np.log(2):.3f}, gradient finite")
    print(f"got: {entropy:.3f}, gradient {gradient[0, 0].tolist()}")
    return bool(jnp.isnan(entropy))
