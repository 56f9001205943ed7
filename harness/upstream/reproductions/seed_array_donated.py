"""A seed of the documented type works once.

Expected: `RolloutConfig(seed=jax.random.PRNGKey(1))`, a `jax.Array` as its annotation
says, serves for any number of generations.
Got: the second call fails, since the sampler donates its state and the seed with it.
"""

import types
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.rl.rollout import base_rollout, vanilla_rollout

TOKENIZER = types.SimpleNamespace(
    encode=lambda text: [3], decode=str, bos_id=lambda: 2, eos_id=lambda: 1, pad_id=lambda: 0
)


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
    rollout = vanilla_rollout.VanillaRollout(
        Table(jnp.zeros((8, 8))), TOKENIZER, base_rollout.CacheConfig(16, 0, 1, 1)
    )
    config = base_rollout.RolloutConfig(
        max_tokens_to_generate=4, max_prompt_length=4, seed=jax.random.PRNGKey(1)
    )
    print("expected: two generations")
    rollout.generate(["a"], config)
    try:
        rollout.generate(["a"], config)
    except (RuntimeError, ValueError) as error:
        print(f"got: the second one fails: {str(error).splitlines()[0]}")
        return "deleted" in str(error) or "donated" in str(error)
    print("got: two generations")
    return False


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
