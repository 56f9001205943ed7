"""`RolloutConfig(top_p=None)` turns sampling off.

Expected: no nucleus limit; the temperature governs the randomness, and "zero means
greedy sampling", as `RolloutConfig` says.
Got: greedy decoding at temperature 1. The sampler chooses its mode by `top_p` alone.
"""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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


def distinct(top_p: float | None) -> int:
    """Gives how many different tokens a near-uniform policy writes."""
    logits = jnp.zeros((8, 8)).at[:, :2].set(-1e9).at[:, 7].set(0.01)  # 7 is the likeliest
    rollout = vanilla_rollout.VanillaRollout(
        Table(logits), TOKENIZER, base_rollout.CacheConfig(64, 0, 1, 1)
    )
    config = base_rollout.RolloutConfig(
        max_tokens_to_generate=32, max_prompt_length=4, temperature=1.0, top_p=top_p
    )
    return len(np.unique(rollout.generate(["a", "a"], config).tokens))


def main() -> bool:
    """Gives whether the defect shows."""
    control, tokens = distinct(1.0), distinct(None)
    print(f"expected: {control} different tokens with top_p=None, as with top_p=1.0")
    print(f"got: {tokens}")
    return control == 6 and tokens == 1


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
