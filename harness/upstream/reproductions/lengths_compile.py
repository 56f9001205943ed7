"""Each new length of a completion compiles a program.

Expected: generations of one shape are compiled once, however long what they write.
Got: one more program for each length, since `token_buffer[start:end]` slices an
array on the device, and a slice of another size is another program.
"""

import types
from typing import Any

import jax
import jax.monitoring
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
    compiled: list[str] = []

    def hear(event: str, duration_secs: float, **kwargs: Any) -> None:
        del duration_secs, kwargs
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(hear)
    # One token in four ends a completion.
    rollout = vanilla_rollout.VanillaRollout(
        Table(jnp.zeros((5, 5)).at[:, 0].set(-1e9)),
        TOKENIZER,
        base_rollout.CacheConfig(32, 0, 1, 1),
    )
    lengths: set[int] = set()
    of_new = of_old = 0
    for seed in range(12):
        before = len(compiled)
        config = base_rollout.RolloutConfig(
            max_tokens_to_generate=16,
            max_prompt_length=4,
            temperature=1.0,
            seed=jax.random.PRNGKey(seed),
        )
        length = len(rollout.generate(["a"], config).tokens[0])
        if seed:  # the first generation compiles what all need
            if length in lengths:
                of_old += len(compiled) - before
            else:
                of_new += len(compiled) - before
        lengths.add(length)
    print("expected: 0 programs compiled after the first generation")
    print(f"got: {of_new} for {len(lengths) - 1} new lengths, {of_old} for lengths met before")
    return of_new >= len(lengths) - 1


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
