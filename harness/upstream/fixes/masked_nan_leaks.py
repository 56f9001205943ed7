"""NaN at a masked position reaches the advantages and the loss.

Expected: masked positions have no effect.
Got: NaN. Masks are applied by multiplication, and 0 times NaN is NaN.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from tunix.rl.ppo import ppo_learner

from harness.upstream import compat
from harness.upstream.engine import points
from harness.upstream.fixes._prelude import Table, padded_example, policy_loss
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether NaN under the mask reaches a mean."""
    return bool(
        jnp.isnan(compat.algorithms.masked_mean(jnp.array([1.0, jnp.nan]), jnp.array([1.0, 0.0])))
    )


ISSUE = KnownIssue(
    id="masked-nan-leaks",
    title="NaN at a masked position leaks into advantages and losses.",
    where="tunix/rl/algo_core.py:137",
    effect="A product with a mask of 0 is NaN: one bad pad spoils the batch.",
    fix="Masked positions are set to 0 before the estimator and the losses.",
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
    print("expected: finite advantages at the valid positions and a finite loss")
    print(f"got: advantages {advantages[0, :2].tolist()}, loss {float(loss)}")
    return bool(np.isnan(advantages[0, :2]).any() and np.isnan(loss))


class Fix(points.Fix):
    """Put 0 at each masked position before the estimator and the losses."""

    def estimator(self, estimator: Callable[..., Any]) -> Callable[..., Any]:
        def estimated(rewards: Any, values: Any, completion_mask: Any, **kwargs: Any) -> Any:
            return estimator(
                rewards=jnp.where(completion_mask, rewards, 0),
                values=jnp.where(completion_mask, values, 0),
                completion_mask=completion_mask,
                **kwargs,
            )

        return estimated

    def loss(self, loss_fn: points.LossFn) -> points.LossFn:
        @functools.wraps(loss_fn)  # flax asks for the names of the arguments
        def loss(model: Any, train_example: Any, *args: Any, **kwargs: Any) -> Any:
            return loss_fn(model, _without_masked(train_example), *args, **kwargs)

        return loss


def _without_masked(example: Any) -> Any:
    """Put 0 at each masked position, where exp(new - old) or NaN would poison gradients."""
    mask = example.completion_mask
    names = ("advantages", "old_per_token_logps", "ref_per_token_logps", "returns", "old_values")
    found = {name: getattr(example, name) for name in names}
    return example.replace(
        **{name: jnp.where(mask, x, 0) for name, x in found.items() if x is not None}
    )
