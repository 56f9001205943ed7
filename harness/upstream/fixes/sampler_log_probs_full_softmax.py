"""The sampler's log-probs are not those of the distribution it drew from.

Expected: with top_k=1 the token is certain, so its log-prob is 0.
Got: the log-prob under the full softmax, without top-k and top-p (the temperature
is taken into account).
"""

import jax
import jax.numpy as jnp
from tunix.generate import sampler as sampler_lib

from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="sampler-log-probs-full-softmax",
    title="The sampler's own log-probs are not of the distribution it draws from.",
    where="tunix/generate/sampler.py:147",
    effect="Under top-k or top-p they are too low; PPO does not use them.",
    shown_by=("sampler-tells-its-law",),
    releases=("0.1.7",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    logits = jnp.array([[[2.0, 1.0, 0.0]]])
    token, log_prob = sampler_lib.sample_top_p(
        logits, jax.random.key(0), temperature=1.0, top_p=1.0, top_k=1, return_logprobs=True
    )
    assert log_prob is not None
    print(f"expected: log-prob 0.0 of token {int(token[0])}, the only one that top_k=1 leaves")
    print(f"got: {float(log_prob[0]):.4f}")
    return int(token[0]) == 0 and float(log_prob[0]) < -0.1
