"""A reward that is not a number becomes 0.

Expected: rewards [1, nan, 3] are an error, or stay as they are.
Got: [1, 0, 3], silently: the sum over reward functions is `np.nansum`. A scorer that
failed looks like a scored wrong answer.
"""

from tunix.rl import reward_manager
from tunix.rl.ppo import ppo_learner

from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="nan-reward-zero",
    title="A reward of NaN becomes 0.",
    where="tunix/rl/reward_manager.py:170",
    effect="A scorer that failed looks like a wrong answer.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    manager = reward_manager.SequenceRewardManager(
        lambda prompts, completions, **_: [1.0, float("nan"), 3.0], ppo_learner.PPOConfig()
    )
    rewards = manager(["a", "b", "c"], ["a", "b", "c"])["rewards"].tolist()
    print("expected: an error, or [1.0, nan, 3.0]")
    print(f"got: {rewards}")
    return rewards == [1.0, 0.0, 3.0]
