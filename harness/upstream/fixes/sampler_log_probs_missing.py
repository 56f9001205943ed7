"""The rollout worker hands on no log-probs, whatever it is asked for.

Expected: with `RolloutConfig(return_logprobs=True)`, a log-prob of each drawn token.
Got: none. `VanillaRollout.generate` does not tell its sampler, and returns None.
"""

from harness.upstream.fixes._prelude import toy_rollout, toy_rollout_config, uniform_logits
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="sampler-log-probs-missing",
    title="The rollout worker hands on no log-probs, whatever return_logprobs says.",
    where="tunix/rl/rollout/vanilla_rollout.py:69",
    effect="Nothing tells how far the trainer's policy is from the one that drew the tokens.",
    shown_by=("cached-decode", "pad-is-no-token", "sampler-tells-its-law"),
    releases=("0.1.6",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    config = toy_rollout_config(max_tokens_to_generate=4, temperature=1.0, return_logprobs=True)
    output = toy_rollout(uniform_logits()).generate(["a"], config)
    print(f"expected: log-probs of {len(output.tokens[0])} tokens")
    print(f"got: {output.logprobs}")
    return output.logprobs is None
