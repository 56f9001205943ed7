"""One reward is given to every row, if it comes as an array or a number.

Expected: a reward function that gives one reward for three completions is an error,
as it is if it gives a list.
Got: every row has that reward. Only lists are checked for their length.
"""

from typing import Any

import numpy as np
from tunix.rl import reward_manager
from tunix.rl.ppo import ppo_learner

from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="reward-array-broadcast",
    title="An array with one reward, or a number, goes to every row.",
    where="tunix/rl/reward_manager.py:155",
    effect="All rows are rewarded alike, which whitens to no signal at all.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
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
