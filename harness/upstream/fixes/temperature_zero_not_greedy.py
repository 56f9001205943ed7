"""Temperature 0 is not greedy sampling but division by 0.

Expected: "Zero means greedy sampling" (RolloutConfig): a policy that favours token 4
writes 4, 4, 4.
Got: 0, 0, 0. With the default top_p=1.0 the logits are divided by the temperature.
"""

import jax.numpy as jnp

from harness.upstream.fixes._prelude import toy_rollout, toy_rollout_config
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="temperature-zero-not-greedy",
    title="Temperature 0 divides the logits by 0.",
    where="tunix/generate/sampler.py:121",
    effect="An evaluation that was to be greedy answers with token 0.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    rollout = toy_rollout(jnp.zeros((8, 8)).at[:, 3].set(1.0).at[:, 4].set(2.0))
    config = toy_rollout_config(max_tokens_to_generate=3, temperature=0.0)
    tokens = rollout.generate(["a"], config).tokens[0].tolist()
    print("expected: [4, 4, 4]")
    print(f"got: {tokens}")
    return tokens != [4, 4, 4]
