"""One valid token in a batch makes its advantage NaN.

Expected: a finite advantage.
Got: NaN. `masked_var` multiplies by n / (n - 1), which is 1 / 0 for n = 1.
"""

import jax.numpy as jnp
import numpy as np
from tunix.rl import function_registry
from tunix.rl.ppo import ppo_learner as registers  # noqa: F401


def main() -> bool:
    """Gives whether the defect shows."""
    estimate = function_registry.default_registry.get("advantage_estimator", "gae")
    advantages, returns = estimate(
        rewards=jnp.array([[1.0, 0.0]]),
        values=jnp.zeros((1, 2)),
        completion_mask=jnp.array([[1, 0]]),
        gamma=1.0,
        gae_lambda=1.0,
    )
    print(f"expected: a finite advantage for a return of {float(returns[0, 0])}")
    print(f"got: {float(advantages[0, 0])}")
    return bool(np.isnan(advantages[0, 0]))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
