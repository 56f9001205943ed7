"""A sampler goes on stopping at the stop tokens of its first call.

Expected: a policy that writes 4, 5, 6, 7, 3, 4 and is asked to stop at 1, which it
never writes, gives those six tokens.
Got: 4 and five pads, if an earlier call was to stop at 4: the compiled decoding keeps
the ids of the call that traced it.
"""

import jax
import jax.numpy as jnp

from harness.upstream.fixes._prelude import toy_sampler
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="end-tokens-baked",
    title="A sampler keeps the stop tokens of its first call.",
    where="tunix/generate/sampler.py:674",
    effect="Training and evaluation cannot have stop tokens of their own.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    successor = jnp.array([0, 0, 3, 4, 5, 6, 7, 3])  # 3 -> 4 -> 5 -> 6 -> 7 -> 3
    sampler = toy_sampler(jax.nn.one_hot(successor, 8))
    sampler(["a"], max_generation_steps=6, eos_tokens=[4])
    tokens = sampler(["a"], max_generation_steps=6, eos_tokens=[1]).tokens[0].tolist()
    print("expected: [4, 5, 6, 7, 3, 4]")
    print(f"got: {tokens}")
    return tokens == [4, 0, 0, 0, 0, 0]
