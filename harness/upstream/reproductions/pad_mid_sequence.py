"""A sampled pad id shifts all later positions in the trainer, not in the sampler.

Expected: sampled and recomputed log-probs of a completion agree (temperature 1).
Got: where the policy wrote the pad id in mid-sequence, `process_ids` takes it for
padding: the token is masked and later tokens move one position to the left.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.models.gemma3 import model as gemma3
from tunix.rl.rollout import base_rollout, vanilla_rollout

TOKENIZER = types.SimpleNamespace(
    encode=lambda text: [3], decode=str, bos_id=lambda: 2, eos_id=lambda: 1, pad_id=lambda: 0
)


def main() -> bool:
    """Gives whether the defect shows."""
    config = gemma3.ModelConfig(
        num_layers=1,
        num_embed=16,
        embed_dim=8,
        hidden_dim=16,
        num_heads=2,
        head_dim=4,
        num_kv_heads=1,
        sliding_window_size=32,
        param_dtype=jnp.float32,
    )
    model = nnx.eval_shape(lambda: gemma3.Gemma3(config, rngs=nnx.Rngs(0)))
    noise = np.random.default_rng(0)  # as initialised, the logits are near uniform
    nnx.update(
        model,
        jax.tree.map(
            lambda leaf: jnp.array(noise.normal(size=leaf.shape) / 2, leaf.dtype), nnx.state(model)
        ),
    )
    rollout = vanilla_rollout.VanillaRollout(
        model, TOKENIZER, base_rollout.CacheConfig(32, 1, 1, 4)
    )
    settings = base_rollout.RolloutConfig(
        max_tokens_to_generate=12,
        max_prompt_length=4,
        temperature=1.0,
        eos_tokens=[99],  # never drawn, so that all completions have one length
        return_logprobs=True,
    )
    output = rollout.generate(["abc"] * 32, settings)
    tokens = np.array(output.tokens)
    recomputed = rollout.get_per_token_logps(
        jnp.array(output.left_padded_prompt_tokens), jnp.array(tokens)
    )
    gap = np.abs(np.array(output.logprobs) - recomputed)
    after_pad = np.cumsum(tokens == 0, axis=1) - (tokens == 0) > 0
    control, shifted = gap[~after_pad].max(), gap[after_pad & (tokens != 0)].max()
    print("expected: sampled and recomputed log-probs agree before and after a sampled pad id")
    print(f"got: they differ by up to {control:.6f} before and {shifted:.6f} after")
    return bool(control < 1e-3 < 1e-2 < shifted)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
