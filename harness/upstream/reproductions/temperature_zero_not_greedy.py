"""Temperature 0 is not greedy sampling but division by 0.

Expected: "Zero means greedy sampling" (RolloutConfig): a policy that favours token 4
writes 4, 4, 4.
Got: 0, 0, 0. With the default top_p=1.0 the logits are divided by the temperature.
"""

import types
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.rl.rollout import base_rollout, vanilla_rollout

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
    policy = Table(jnp.zeros((8, 8)).at[:, 3].set(1.0).at[:, 4].set(2.0))
    rollout = vanilla_rollout.VanillaRollout(
        policy, TOKENIZER, base_rollout.CacheConfig(16, 1, 1, 1)
    )
    config = base_rollout.RolloutConfig(
        max_tokens_to_generate=3, max_prompt_length=4, temperature=0.0
    )
    tokens = rollout.generate(["a"], config).tokens[0].tolist()
    print("expected: [4, 4, 4]")
    print(f"got: {tokens}")
    return tokens != [4, 4, 4]


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
