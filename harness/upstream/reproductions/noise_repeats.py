"""Without a configured seed, every generation draws the same noise.

Expected: two calls with `RolloutConfig(seed=None)` sample different completions.
Got: the same ones. The sampler turns None into `PRNGKey(0)` at every call, so
every batch of a PPO run is sampled with the same noise.
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


def main() -> bool:
    """Gives whether the defect shows."""
    uniform = Table(jnp.zeros((8, 8)).at[:, :2].set(-1e9))  # neither pad nor end tokens
    rollout = vanilla_rollout.VanillaRollout(
        uniform, TOKENIZER, base_rollout.CacheConfig(64, 0, 1, 1)
    )
    config = base_rollout.RolloutConfig(
        max_tokens_to_generate=32, max_prompt_length=4, temperature=1.0
    )
    first, second = (np.stack(rollout.generate(["a", "a"], config).tokens) for _ in range(2))
    share = np.mean(first == second)
    print(f"expected: about {1 / 6:.2f} of the tokens of two generations agree")
    print(f"got: {share:.2f} agree")
    return bool(share == 1.0)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
