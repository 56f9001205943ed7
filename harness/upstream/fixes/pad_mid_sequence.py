"""A sampled pad id shifts all later positions in the trainer, not in the sampler.

Expected: sampled and recomputed log-probs of a completion agree (temperature 1).
Got: where the policy wrote the pad id in mid-sequence, `process_ids` takes it for
padding: the token is masked and later tokens move one position to the left.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.models.gemma3 import model as gemma3
from tunix.rl import common
from tunix.rl.rollout import base_rollout, vanilla_rollout

from harness.upstream.engine import points
from harness.upstream.fixes._prelude import TOKENIZER, toy_rollout_config
from harness.upstream.fixes._probing import END, PAD, WORD
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a pad among drawn tokens loses its position."""
    prompt = jnp.array([[WORD]])
    drawn = jnp.array([[WORD, PAD, WORD]])
    positions = common.process_ids(prompt, drawn, pad_id=PAD, eos_id=END)[1]
    return np.asarray(positions)[0].tolist() != [0, 1, 2, 3]


ISSUE = KnownIssue(
    id="pad-mid-sequence",
    title="A pad that the policy draws is masked and shifts all that follows.",
    where="tunix/rl/common.py:256",
    effect=(
        "Log-probs and values of the rest of the row are of another sequence than the one "
        "drawn: up to 1.9 nats."
    ),
    fix="A pad that was drawn ends its row.",
    probe=probe,
    shown_by=("completions-end", "decode-stops", "greedy", "pad-is-no-token"),
    releases=("0.1.7",),
)


def noisy_gemma() -> gemma3.Gemma3:
    """Return a small Gemma with normal weights: as initialised, the logits are near uniform."""
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
    noise = np.random.default_rng(0)
    nnx.update(
        model,
        jax.tree.map(
            lambda leaf: jnp.array(noise.normal(size=leaf.shape) / 2, leaf.dtype), nnx.state(model)
        ),
    )
    return model


def reproduce() -> bool:
    """Return whether the issue shows."""
    rollout = vanilla_rollout.VanillaRollout(
        noisy_gemma(), TOKENIZER, base_rollout.CacheConfig(32, 1, 1, 4)
    )
    config = toy_rollout_config(
        max_tokens_to_generate=12,
        temperature=1.0,
        eos_tokens=[99],  # never drawn, so that all completions have one length
        return_logprobs=True,
    )
    output = rollout.generate(["a"] * 32, config)
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


class Fix(points.Fix):
    """Let a pad that was drawn end its sequence.

    The trainer, which knows pads by their id, would take the tokens after it for others.
    """

    def stop_tokens(self, sampler: Any, ids: tuple[int, ...]) -> tuple[int, ...]:
        return (*ids, sampler.tokenizer.pad_id())
