"""The nucleus counts the mass of tokens that top_k leaves out.

Expected: of four equally likely tokens, top_k=2 leaves two, of half the mass each,
and top_p=0.4 the first of them alone.
Got: both. Cumulative mass is that of the softmax over all four, a quarter each.
"""

import jax
import jax.numpy as jnp
import numpy as np
from tunix.generate import sampler as sampler_lib

from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="nucleus-beside-top-k",
    title="top_p counts the mass of all tokens, those that top_k leaves out too.",
    where="tunix/generate/sampler.py:126",
    effect="With both set, more tokens are drawn than a nucleus of what top_k leaves.",
    shown_by=("draws-follow-the-law",),
    releases=("0.1.6",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    logits = jnp.zeros((512, 1, 4))
    drawn = sampler_lib.sample_top_p(logits, jax.random.key(0), temperature=1.0, top_p=0.4, top_k=2)
    tokens = np.array(drawn[0] if isinstance(drawn, tuple) else drawn)
    kinds = sorted(set(tokens.tolist()))
    print("expected: one kind of token in 512 draws")
    print(f"got: {len(kinds)} kinds, {kinds}")
    return len(kinds) == 2
