"""The decode loop runs one step past the length limit.

Expected: four tokens take the prefill, which samples the first, and three decode steps.
Got: four decode steps when a row has not ended; the last one's token is thrown away.
"""

import dataclasses
import types
from typing import Any, cast

import jax
import jax.numpy as jnp
from tunix.generate import sampler as sampler_lib

from harness.upstream import compat
from harness.upstream.engine import points
from harness.upstream.fixes._prelude import toy_sampler
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether the decode loop writes past the last of its positions."""
    state = compat.sampling_state(
        decoding_step=jnp.int32(1),
        token_buffer=jnp.zeros((1, 4), jnp.int32),
        positions=jnp.zeros((1, 4), jnp.int32),
        cache={},
        done=jnp.zeros(1, bool),
        total_sampling_steps=4,
        logits_buffer=None,
        logprobs_buffer=None,
        forbidden_token_ids=None,
        seed=jnp.zeros(2, jnp.uint32),
        sampling_mode="greedy",
        num_input_tokens=2,
        temperature=1.0,
        sampling_parameters=None,
    )

    def step(params: Any, state: Any) -> Any:
        return dataclasses.replace(state, decoding_step=state.decoding_step + 1)

    sampler = types.SimpleNamespace(_sample_step=step)
    done = sampler_lib.Sampler._decode_fn(cast(Any, sampler), cast(Any, None), state)
    return int(done.decoding_step) > 3


ISSUE = KnownIssue(
    id="decode-one-too-many",
    title="Decoding takes one step past the limit of tokens.",
    where="tunix/generate/sampler.py:691",
    effect="One forward pass of the policy is wasted whenever a row reaches the limit.",
    fix="The loop ends with the last token that is kept.",
    probe=probe,
    shown_by=("decode-stops",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    sampler: Any = toy_sampler(jax.nn.one_hot(jnp.full(8, 7), 8))  # always writes token 7
    steps: list[int] = []
    decode = sampler._compiled_decode_fn

    def counted(params: Any, state: Any) -> Any:
        before = int(state.decoding_step)
        after = decode(params, state)
        steps.append(int(after.decoding_step) - before)
        return after

    sampler._compiled_decode_fn = counted
    output = sampler(["a"], max_generation_steps=4)
    print(f"expected: 3 decode steps for {len(output.tokens[0])} tokens")
    print(f"got: {steps[0]} decode steps")
    return len(output.tokens[0]) == 4 and steps[0] == 4


class Fix(points.Fix):
    """End the loop with the last token that is kept: a step writes the token after its own."""

    def decode_state(self, state: Any) -> Any:
        return dataclasses.replace(state, total_sampling_steps=state.total_sampling_steps - 1)
