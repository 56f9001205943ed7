"""Rollouts are sampled at one temperature and scored at another.

Expected: at temperature 0.7, the log-probs that the learner takes for those of the
sampling policy equal the sampler's own.
Got: `VanillaRollout.get_per_token_logps` and `ppo_policy_loss_fn` score at
temperature 1, whatever the rollout's temperature.
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


def difference(temperature: float) -> float:
    """Gives the largest gap between sampled and recomputed log-probs."""
    logits = jax.random.normal(jax.random.key(0), (8, 8))
    rollout = vanilla_rollout.VanillaRollout(
        Table(logits.at[:, :2].set(-1e9)),  # neither pad nor end tokens
        TOKENIZER,
        base_rollout.CacheConfig(32, 0, 1, 1),
    )
    config = base_rollout.RolloutConfig(
        max_tokens_to_generate=16,
        max_prompt_length=4,
        temperature=temperature,
        return_logprobs=True,
    )
    output = rollout.generate(["a", "b"], config)
    recomputed = rollout.get_per_token_logps(
        jnp.array(output.left_padded_prompt_tokens), jnp.array(output.tokens)
    )
    return float(np.abs(np.array(output.logprobs) - recomputed).max())


def main() -> bool:
    """Gives whether the defect shows."""
    control, gap = difference(1.0), difference(0.7)
    print("expected: sampled and recomputed log-probs agree at temperatures 1 and 0.7")
    print(f"got: they differ by up to {control:.6f} at 1 and {gap:.6f} at 0.7")
    return control < 1e-4 < 1e-2 < gap


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
