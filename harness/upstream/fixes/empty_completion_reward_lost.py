"""The reward of a completion that ends at once is lost.

Expected: a policy that stops at its first token, for a reward of 7, has a token with
return 7.
Got: a row without valid tokens and returns of 0. The reward is put on a masked position.
"""

import jax.numpy as jnp

from harness.upstream.fixes._prelude import Table, toy_batch, toy_learner
from harness.upstream.fixes.end_token_dropped import probe
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="empty-completion-reward-lost",
    title="The reward of a completion that ends at once is lost.",
    where="tunix/rl/ppo/ppo_learner.py:286",
    effect="Its row is masked whole: collapse to empty answers is never punished.",
    fix="As end-token-dropped: the row holds its stop token.",
    probe=probe,
    shown_by=("completions-end", "logged-figures"),
    fixed_with="end-token-dropped",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    ends_at_once = Table(jnp.full((8, 8), -1e9).at[:, 1].set(0.0))
    learner = toy_learner(
        lambda prompts, **_: [7.0] * len(prompts), actor=ends_at_once, training={"max_steps": 1}
    )
    example = learner._generate_and_compute_advantage(toy_batch("ab"))
    returns = example.returns[0].tolist()
    valid = int(example.completion_mask[0].sum())
    print("expected: 1 valid token, with return 7.0")
    print(f"got: {valid} valid tokens, returns {returns}")
    return valid == 0 and not any(returns)
