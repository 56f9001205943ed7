"""With two PPO epochs the trajectory ids are not those of the data.

Expected: "Trajectory id is same as the offset of the example in the data source": 0, 1, 2.
Got: 0, 2, 4. They count the trainer's iterations, of which an example has two.
"""

from typing import Any

from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="trajectory-ids-skip",
    title="Trajectory ids count iterations, not examples.",
    where="tunix/rl/ppo/ppo_learner.py:514",
    effect="With two epochs every second id is skipped; reward functions are given them.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    seen: list[str] = []

    def reward(prompts: Any, trajectory_ids: list[str], **_: Any) -> list[float]:
        seen.extend(trajectory_ids)
        return [1.0]

    learner = toy_learner(reward, ppo={"num_iterations": 2}, training={"max_steps": 100})
    learner.train([toy_batch(prompt) for prompt in "abc"])
    print("expected: ['0', '1', '2']")
    print(f"got: {seen}")
    return seen == ["0", "2", "4"]
