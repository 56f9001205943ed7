"""`RolloutConfig(top_p=None)` turns sampling off.

Expected: no nucleus limit; the temperature governs the randomness, and "zero means
greedy sampling", as `RolloutConfig` says.
Got: greedy decoding at temperature 1. The sampler chooses its mode by `top_p` alone.
"""

import dataclasses
import types
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from tunix.generate import sampler as sampler_lib

from harness.upstream.engine import points
from harness.upstream.fixes._prelude import toy_rollout, toy_rollout_config, uniform_logits
from harness.upstream.fixes._probing import PAD, WORD
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a temperature of 1 without top_p chooses the greedy mode."""
    sampler = types.SimpleNamespace(
        tokenizer=types.SimpleNamespace(pad_id=lambda: PAD),
        transformer=types.SimpleNamespace(init_cache=lambda *args: {}),
        cache_config=sampler_lib.CacheConfig(4, 1, 1, 2),
        dtype=jnp.float32,
    )
    state = sampler_lib.Sampler.init_sample_state(
        cast(Any, sampler),
        jnp.full((1, 2), WORD),
        total_sampling_steps=4,
        include_logits=False,
        forbidden_token_ids=None,
        temperature=1.0,
        top_p=None,
        top_k=None,
        seed=jax.random.PRNGKey(0),
        beam_size=None,
    )
    return state.sampling_mode == "greedy"


ISSUE = KnownIssue(
    id="top-p-none-greedy",
    title="top_p=None means greedy, whatever the temperature.",
    where="tunix/generate/sampler.py:443",
    effect="Rollouts of a row are all alike: no exploration, and nothing says so.",
    fix="None keeps the whole distribution.",
    probe=probe,
    shown_by=("top-p-none",),
)


def distinct(top_p: float | None) -> int:
    """Return how many different tokens a near-uniform policy writes."""
    rollout = toy_rollout(uniform_logits().at[:, 7].set(0.01))  # 7 is the likeliest
    config = toy_rollout_config(max_tokens_to_generate=32, temperature=1.0, top_p=top_p)
    return len(np.unique(rollout.generate(["a", "a"], config).tokens))


def reproduce() -> bool:
    """Return whether the issue shows."""
    control, tokens = distinct(1.0), distinct(None)
    print(f"expected: {control} different tokens with top_p=None, as with top_p=1.0")
    print(f"got: {tokens}")
    return control == 6 and tokens == 1


class Fix(points.Fix):
    """Let None keep the whole distribution."""

    def generation(self, worker: Any, config: Any) -> Any:
        return config if config.top_p is not None else dataclasses.replace(config, top_p=1.0)
