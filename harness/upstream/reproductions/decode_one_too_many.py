"""The decode loop runs one step past the length limit.

Expected: four tokens take the prefill, which samples the first, and three decode steps.
Got: four decode steps when a row has not ended; the last one's token is thrown away.
"""

import types
from typing import Any
from unittest import mock

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
    generate = sampler.Sampler(
        Table(jax.nn.one_hot(jnp.full(8, 7), 8)),  # always writes token 7
        TOKENIZER,
        sampler.CacheConfig(16, 0, 1, 1),
    )
    steps: list[int] = []
    decode = generate._compiled_decode_fn

    def counted(params: Any, state: Any) -> Any:
        before = int(state.decoding_step)
        after = decode(params, state)
        steps.append(int(after.decoding_step) - before)
        return after

    with mock.patch.object(generate, "_compiled_decode_fn", counted):
        output = generate(["a"], max_generation_steps=4)
    print(f"expected: 3 decode steps for {len(output.tokens[0])} tokens")
    print(f"got: {steps[0]} decode steps")
    return len(output.tokens[0]) == 4 and steps[0] == 4


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
