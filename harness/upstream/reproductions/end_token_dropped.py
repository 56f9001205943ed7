"""The sampler cuts the completion before the end token that it drew.

Expected: a policy that writes 4, 5, 1 (1 ends the sequence) gives those three tokens.
Got: 4, 5. No trainer sees the decision to stop, and the reward of the sequence
lands on the token before it.
"""

import types
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.generate import sampler

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
    successor = jnp.array([0, 0, 3, 4, 5, 1, 0, 0])  # 3 -> 4 -> 5 -> 1
    generate = sampler.Sampler(
        Table(jax.nn.one_hot(successor, 8)), TOKENIZER, sampler.CacheConfig(16, 0, 1, 1)
    )
    tokens = generate(["a"], max_generation_steps=6).tokens[0].tolist()
    print("expected: [4, 5, 1]")
    print(f"got: {tokens}")
    return tokens == [4, 5]


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
