"""A PPO configuration is not checked.

Expected: `PPOConfig(algo_variant="nonsense")` is a ValueError, as `AlgorithmConfig` says.
Got: it is accepted. `PPOConfig.__post_init__` does not call that of its base class.
"""

from tunix.rl import algorithm_config
from tunix.rl.ppo import ppo_learner


def main() -> bool:
    """Gives whether the defect shows."""
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


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
