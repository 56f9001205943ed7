"""One valid token in a batch makes its advantage NaN.

Expected: a finite advantage.
Got: NaN. `masked_var` multiplies by n / (n - 1), which is 1 / 0 for n = 1.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from tunix.rl.ppo import ppo_learner

from harness.upstream import compat
from harness.upstream.engine import points
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether the whitened advantage of a single token is NaN."""
    found = compat.algorithms.masked_whiten(jnp.array([[1.0, 0.0]]), jnp.array([[True, False]]))
    return not bool(jnp.isfinite(found[0, 0]))


ISSUE = KnownIssue(
    id="whiten-one-token",
    title="A group with one real token has advantages of NaN.",
    where="tunix/rl/algo_core.py:156",
    effect="Bessel's correction divides by zero; one such group ends all learning.",
    fix="Its advantage is 0, as of a set without spread.",
    probe=probe,
    shown_by=("gae-one-token",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    advantages, returns = ppo_learner.registry.get("advantage_estimator", "gae")(
        rewards=jnp.array([[1.0, 0.0]]),
        values=jnp.zeros((1, 2)),
        completion_mask=jnp.array([[1, 0]]),
        gamma=1.0,
        gae_lambda=1.0,
    )
    print(f"expected: a finite advantage for a return of {float(returns[0, 0])}")
    print(f"got: {float(advantages[0, 0])}")
    return bool(np.isnan(advantages[0, 0]))


class Fix(points.Fix):
    """Make the advantage of a single token 0, as of any set without spread."""

    def estimator(self, estimator: Callable[..., Any]) -> Callable[..., Any]:
        def estimated(rewards: Any, values: Any, completion_mask: Any, **kwargs: Any) -> Any:
            advantages, returns = estimator(
                rewards=rewards, values=values, completion_mask=completion_mask, **kwargs
            )
            return jnp.where(jnp.sum(completion_mask) > 1, advantages, 0), returns

        return estimated
