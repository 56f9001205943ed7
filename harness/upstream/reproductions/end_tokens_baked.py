"""A sampler goes on stopping at the end tokens of its first call.

Expected: a policy that writes 4, 5, 6, 7, 3, 4 and is asked to stop at 1, which it
never writes, gives those six tokens.
Got: 4 and five pads, if an earlier call was to stop at 4: the compiled decoding keeps
the ids of the call that traced it.
"""

import types
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.generate import sampler

TOKENIZER = types.SimpleNamespace(
    encode=lambda text: [ord(letter) - ord("a") + 3 for letter in text],
    decode=str,
    bos_id=lambda: 2,
    eos_id=lambda: 1,
    pad_id=lambda: 0,
)


class Table(nnx.Module):
    """A model whose output at a token is a row of a table."""

    config = types.SimpleNamespace(num_layers=1, num_kv_heads=1, head_dim=1)

    def __init__(self, table: jax.Array):
        self.table = nnx.Param(table)

    def __call__(
        self, tokens: jax.Array, positions: Any = None, cache: Any = None, *_: Any, **__: Any
    ) -> tuple[jax.Array, Any]:
        """Gives the logits and the cache."""
        return self.table[tokens], cache

    def init_cache(self, *_: Any) -> dict[str, jax.Array]:
        """Gives an empty cache."""
        return {}


def main() -> bool:
    """Gives whether the defect shows."""
    successor = jnp.array([0, 0, 3, 4, 5, 6, 7, 3])  # 3 -> 4 -> 5 -> 6 -> 7 -> 3
    generate = sampler.Sampler(
        Table(jax.nn.one_hot(successor, 8)), TOKENIZER, sampler.CacheConfig(16, 1, 1, 1)
    )
    generate(["a"], max_generation_steps=6, eos_tokens=[4])
    tokens = generate(["a"], max_generation_steps=6, eos_tokens=[1]).tokens[0].tolist()
    print("expected: [4, 5, 6, 7, 3, 4]")
    print(f"got: {tokens}")
    return tokens == [4, 0, 0, 0, 0, 0]


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
