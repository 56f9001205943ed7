"""The rollout worker hands on no log-probs, whatever it is asked for.

Expected: with `RolloutConfig(return_logprobs=True)`, a log-prob of each drawn token.
Got: none. `VanillaRollout.generate` does not tell its sampler, and returns None.
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
        Table(jnp.zeros((8, 8)).at[:, :2].set(-1e9)),  # neither pad nor end tokens
        TOKENIZER,
        base_rollout.CacheConfig(16, 0, 1, 1),
    )
    config = base_rollout.RolloutConfig(
        max_tokens_to_generate=4, max_prompt_length=4, temperature=1.0, return_logprobs=True
    )
    output = rollout.generate(["a"], config)
    print(f"expected: log-probs of {len(output.tokens[0])} tokens")
    print(f"got: {output.logprobs}")
    return output.logprobs is None


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
