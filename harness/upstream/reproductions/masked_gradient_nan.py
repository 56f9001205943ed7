"""A masked token makes the policy's gradient NaN while the loss stays finite.

Expected: an old log-prob of -1e6 at a masked place changes neither loss nor gradient.
Got: a finite loss and a NaN gradient. The ratio overflows to infinity before the
mask is applied; in the backward pass 0 times infinity is NaN.
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
    example = common.TrainExample(
        prompt_ids=jnp.array([[3]]),
        prompt_mask=jnp.array([[1]]),
        completion_ids=jnp.array([[5, 0]]),
        completion_mask=jnp.array([[1, 0]]),  # the second place is padding
        advantages=jnp.array([[1.0, 1.0]]),
        ref_per_token_logps=None,
        old_per_token_logps=jnp.array([[-2.0, -1e6]]),
    )
    (loss, _), gradient = nnx.value_and_grad(algo_core.ppo_policy_loss_fn, has_aux=True)(
        Table(jnp.zeros((8, 8))), example, ppo_learner.PPOConfig(), pad_id=0, eos_id=1
    )
    norm = jnp.linalg.norm(gradient["table"][...])
    print("expected: a finite loss and a finite gradient norm")
    print(f"got: loss {float(loss):.4f}, gradient norm {float(norm)}")
    return bool(np.isfinite(loss) and np.isnan(norm))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
