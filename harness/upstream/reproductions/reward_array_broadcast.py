"""One reward is given to every row, if it comes as an array or a number.

Expected: a reward function that gives one reward for three completions is an error,
as it is if it gives a list.
Got: every row has that reward. Only lists are checked for their length.
"""

from typing import Any

import numpy as np
from tunix.rl import reward_manager
from tunix.rl.ppo import ppo_learner


def main() -> bool:
    """Gives whether the defect shows."""
    prompts = completions = ["a", "b", "c"]
    got: list[Any] = []
    for reward in ([2.0], np.array([2.0]), 2.0):
        manager = reward_manager.SequenceRewardManager(
            lambda prompts, completions, reward=reward, **_: reward, ppo_learner.PPOConfig()
        )
        try:
            got.append(manager(prompts, completions)["rewards"].tolist())
        except RuntimeError:
            got.append("RuntimeError")
    print("expected: ['RuntimeError', 'RuntimeError', 'RuntimeError']")
    print(f"got: {got}")
    return got == ["RuntimeError", [2.0] * 3, [2.0] * 3]


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
