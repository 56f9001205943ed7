"""The evaluation loss is that of the first evaluation micro-batch.

Expected: an evaluation set of three batches of two prompts is evaluated on six.
Got: on two. All six are sampled and rewarded, but the learner takes one item of the
queue of evaluation examples and leaves the rest.
"""

from typing import Any

from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="eval-first-micro-batch",
    title="The evaluation loss is that of the first evaluation micro-batch.",
    where="tunix/rl/rl_learner.py:768",
    effect="The rest of the validation set is generated, scored and thrown away.",
    shown_by=("eval-uses-all",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    learner = toy_learner(training={"max_steps": 100})
    sequences: list[int] = []
    cluster = learner.rl_cluster
    update = cluster.update_actor

    def recorded(train: Any, evaluation: Any, *rest: Any) -> None:
        sequences.append(sum(len(example.prompt_ids) for example in evaluation))
        update(train, evaluation, *rest)

    cluster.update_actor = recorded
    learner.train([toy_batch("ab")], eval_ds=[toy_batch("ab")] * 3)
    print("expected: the loss of 6 evaluation prompts")
    print(f"got: the loss of {sequences[0]}")
    return sequences == [2]
