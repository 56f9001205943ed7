"""A list of prompts reaches the tokenizer as arrays.

Expected: the tokenizer is given the strings of `{"prompts": ["ab", "ba"]}`, a type
that `TrainingInputT` allows.
Got: NumPy arrays of one string each. `jax.tree.map` of `np.repeat` goes into the list.
"""

import types
from typing import Any

from harness.upstream.fixes._prelude import TOKENIZER, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="prompt-list-torn",
    title="A Python list of prompts reaches the tokenizer as arrays.",
    where="tunix/rl/rl_learner.py:408",
    effect="A crash, or wrong tokens, as the tokenizer takes it.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    kinds: list[str] = []

    def encode(text: Any) -> list[int]:
        kinds.append(type(text).__name__)
        return [3]

    tokenizer = types.SimpleNamespace(**{**vars(TOKENIZER), "encode": encode})
    learner = toy_learner(
        lambda prompts, **_: [1.0, 1.0], tokenizer=tokenizer, training={"max_steps": 1}
    )
    learner.train([{"prompts": ["ab", "ba"]}])
    print("expected: the tokenizer encodes ['str', 'str']")
    print(f"got: {kinds}")
    return "ndarray" in kinds
