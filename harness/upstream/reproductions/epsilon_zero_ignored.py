"""A clipping bound of zero is taken for one that was not given.

Expected: `PPOConfig(epsilon=0.2, epsilon_low=0.0)` keeps its lower bound of 0.
Got: 0.2. The default is chosen by truth value, not by `is None`.
"""

from tunix.rl.ppo import ppo_learner


def main() -> bool:
    """Gives whether the defect shows."""
    config = ppo_learner.PPOConfig(epsilon=0.2, epsilon_low=0.0, epsilon_high=0.0)
    print("expected: epsilon_low=0.0, epsilon_high=0.0")
    print(f"got: epsilon_low={config.epsilon_low}, epsilon_high={config.epsilon_high}")
    return config.epsilon_low == 0.2 and config.epsilon_high == 0.2


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
