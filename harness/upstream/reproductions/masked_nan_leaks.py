"""NaN at a masked place reaches the advantages and the loss.

Expected: masked places have no effect.
Got: NaN. Masks are applied by multiplication, and 0 times NaN is NaN.
"""

# pyright: reportCallIssue=false

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.rl import algo_core, common
from tunix.rl.ppo import ppo_learner


class Table(nnx.Module):
    """A model without a cache, whose output at a token is a row of a table."""

    config = types.SimpleNamespace(num_layers=0, num_kv_heads=1, head_dim=1)

    def __init__(self, table: jax.Array):
        self.table = nnx.Param(table)

    def __call__(self, tokens: jax.Array, *_: Any, **__: Any) -> tuple[jax.Array, dict]:
        """Gives an output and an empty cache."""
        return self.table[tokens], {}


def main() -> bool:
    """Gives whether the defect shows."""
    advantages, _ = algo_core.compute_gae_advantages(
        rewards=jnp.array([[0.0, 1.0, 0.0]]),
        values=jnp.array([[0.2, 0.1, jnp.nan]]),
        completion_mask=jnp.array([[1, 1, 0]]),  # the last place is padding
        gamma=1.0,
        gae_lambda=1.0,
    )
    example = common.TrainExample(
        prompt_ids=jnp.array([[3]]),
        prompt_mask=jnp.array([[1]]),
        completion_ids=jnp.array([[5, 0]]),
        completion_mask=jnp.array([[1, 0]]),  # the second place is padding
        advantages=jnp.array([[1.0, 1.0]]),
        ref_per_token_logps=None,
        old_per_token_logps=jnp.array([[-2.0, jnp.nan]]),
    )
    loss, _ = algo_core.ppo_policy_loss_fn(
        Table(jnp.zeros((8, 8))), example, ppo_learner.PPOConfig(), pad_id=0, eos_id=1
    )
    print("expected: finite advantages at the valid places and a finite loss")
    print(f"got: advantages {advantages[0, :2].tolist()}, loss {float(loss)}")
    return bool(np.isnan(advantages[0, :2]).any() and np.isnan(loss))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
