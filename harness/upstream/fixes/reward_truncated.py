"""A fractional reward is lost on its way to the returns.

Expected: with beta = 0 and gamma = lambda = 1, every token's return is the reward, 0.5.
Got: 0.0. PPOLearner builds the reward tensor with `zeros_like(completion_ids)`, which
is int32, so the scattered reward is truncated.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tunix.rl import rl_cluster

from harness.upstream import rebind
from harness.upstream.engine import points
from harness.upstream.fixes._prelude import toy_batch, toy_learner, toy_rollout_config
from harness.upstream.fixes._probing import one_group
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a reward of one half is lost on its way to the returns."""
    example, _ = one_group(rl_cluster.Mode.TRAIN)
    return bool(np.asarray(example.returns)[0, -1] != 0.5)


ISSUE = KnownIssue(
    id="reward-truncated",
    title="Fractional rewards are cut to integers.",
    where="tunix/rl/ppo/ppo_learner.py:353",
    effect=(
        "The reward tensor is made like the token ids, int32: the recipe's 0.1 for a "
        "well-formed answer becomes 0, while the logged score still shows 0.1."
    ),
    fix="The learner's reward tensor is float32.",
    probe=probe,
    shown_by=("returns", "advantages", "logged-figures"),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    learner = toy_learner(
        lambda prompts, **_: [0.5] * len(prompts),
        ppo={"gamma": 1.0, "gae_lambda": 1.0},
        rollout=toy_rollout_config(max_tokens_to_generate=3),
    )
    example = learner._generate_and_compute_advantage(toy_batch("a"))
    returns = np.asarray(example.returns)[0]
    print("expected: returns of 0.5")
    print(f"got: returns of {returns.tolist()}")
    return bool(np.any(returns != 0.5))


class Fix(points.Fix):
    """Make the reward tensor float32."""

    def advantages(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        return rebind.rebind(compute, jnp=rebind.Overlay(jnp, zeros_like=_float_zeros_like))


def _float_zeros_like(x: jax.Array, **kwargs: Any) -> jax.Array:
    return jnp.zeros(jnp.shape(x), jnp.float32, **kwargs)
