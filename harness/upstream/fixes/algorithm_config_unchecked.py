"""A PPO configuration is not checked.

Expected: `PPOConfig(algo_variant="nonsense")` is a ValueError, as `AlgorithmConfig` says.
Got: it is accepted. `PPOConfig.__post_init__` does not call that of its base class.
"""

from tunix.rl import algorithm_config
from tunix.rl.ppo import ppo_learner

from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="algorithm-config-unchecked",
    title="PPOConfig never makes the checks of its base class.",
    where="tunix/rl/ppo/ppo_learner.py:100",
    effect="A misspelt variant passes.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    errors: list[str] = []
    for config in (algorithm_config.AlgorithmConfig, ppo_learner.PPOConfig):
        try:
            config(algo_variant="nonsense")
            errors.append("none")
        except ValueError:
            errors.append("ValueError")
    print("expected: errors of the base class and of PPO: ['ValueError', 'ValueError']")
    print(f"got: {errors}")
    return errors == ["ValueError", "none"]
