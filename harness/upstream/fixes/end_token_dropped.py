"""The sampler cuts the completion before the end token that it drew.

Expected: a policy that writes 4, 5, 1 (1 ends the sequence) gives those three tokens.
Got: 4, 5. No trainer sees the decision to stop, and the reward of the sequence
lands on the token before it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from tunix.rl.rollout import vanilla_rollout

from harness.upstream.fixes._prelude import toy_sampler
from harness.upstream.fixes._probing import END, PAD, WORD, rollout_config, sampler_that_wrote
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a completion lacks the stop token that was sampled."""
    sampler = sampler_that_wrote([WORD, WORD, END, PAD], [])
    rollout = object.__new__(vanilla_rollout.VanillaRollout)
    rollout._sampler = sampler
    output = rollout.generate(["ab"], rollout_config())
    return END not in np.asarray(output.tokens[0]).tolist()


ISSUE = KnownIssue(
    id="end-token-dropped",
    title="The end token is cut from the completion before training.",
    where="tunix/generate/sampler.py:945",
    effect=(
        "The choice to stop has no log-probability, value or gradient, and its reward "
        "lands on the token before it: a policy that stops too early is never told."
    ),
    mend="The rollout keeps the end token that was drawn; the text has none, as before.",
    probe=probe,
    shown_by=("completions-end", "greedy"),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    successor = jnp.array([0, 0, 3, 4, 5, 1, 0, 0])  # 3 -> 4 -> 5 -> 1
    sampler = toy_sampler(jax.nn.one_hot(successor, 8))
    tokens = sampler(["a"], max_generation_steps=6).tokens[0].tolist()
    print("expected: [4, 5, 1]")
    print(f"got: {tokens}")
    return tokens == [4, 5]
