"""A column of the data set with two dimensions is cut into wrong rows.

Expected: prompt "a" comes with [1, 2] and "b" with [3, 4].
Got: "a" with 1 and "b" with 2: the micro-batch iterator flattens every array, takes
as many entries as prompts, and leaves the rest for later batches.
"""

from typing import Any

import numpy as np

from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="columns-flattened",
    title="A column of two dimensions is cut into wrong rows.",
    where="tunix/rl/rl_learner.py:506",
    effect="The reward function is given the features of other rows.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    seen: list[Any] = []

    def reward(prompts: Any, pair: Any, **_: Any) -> list[float]:
        seen.extend(zip(prompts.tolist(), pair.tolist(), strict=True))
        return [1.0] * len(prompts)

    training = {"max_steps": 1, "mini_batch_size": 2, "train_micro_batch_size": 1}
    learner = toy_learner(reward, training=training)
    learner.train([toy_batch("ab", pair=np.array([[1, 2], [3, 4]]))])
    print("expected: [('a', [1, 2]), ('b', [3, 4])]")
    print(f"got: {seen}")
    return seen == [("a", 1), ("b", 2)]
