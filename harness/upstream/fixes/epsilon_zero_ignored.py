"""A clipping bound of zero is taken for one that was not given.

Expected: `PPOConfig(epsilon=0.2, epsilon_low=0.0)` keeps its lower bound of 0.
Got: 0.2. The default is chosen by truth value, not by `is None`.
"""

from typing import Any

from tunix.rl.ppo import ppo_learner

from harness.upstream.engine import points
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a lower bound of 0 becomes another."""
    return ppo_learner.PPOConfig(epsilon_low=0.0).epsilon_low != 0


ISSUE = KnownIssue(
    id="epsilon-zero-ignored",
    title="A clip bound of 0 becomes the default one.",
    where="tunix/rl/ppo/ppo_learner.py:101",
    effect="A side that was to be closed is open by epsilon.",
    fix="The bound is set after the configuration is made.",
    probe=probe,
    shown_by=("policy-loss-plain",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    config = ppo_learner.PPOConfig(epsilon=0.2, epsilon_low=0.0, epsilon_high=0.0)
    print("expected: epsilon_low=0.0, epsilon_high=0.0")
    print(f"got: epsilon_low={config.epsilon_low}, epsilon_high={config.epsilon_high}")
    return config.epsilon_low == 0.2 and config.epsilon_high == 0.2


class Fix(points.Fix):
    """Set the bounds after the configuration is made, which takes a bound of 0 for none."""

    def algorithm(self, config: Any, ppo: Any) -> None:
        for name in ("epsilon_low", "epsilon_high"):
            given = getattr(ppo, name)
            setattr(config, name, ppo.epsilon if given is None else given)
