"""With sequence packing one optimizer step takes the gradients of several batches.

Expected: three batches of one mini-batch each make three updates, packed or not.
Got: one, if packed. Packing makes one micro-batch of two, but the gradient is still
accumulated over two, and what is left over at the end is lost.
"""

from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="packing-skips-updates",
    title="With packing, one optimizer step spans several batches.",
    where="tunix/sft/peft_trainer.py:724",
    effect="Fewer updates, on data of older policies.",
    releases=("0.1.7",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    updates: list[int] = []
    for budget in (None, 64):
        learner = toy_learner(
            training={
                "max_steps": 100,
                "mini_batch_size": 2,
                "train_micro_batch_size": 1,
                "max_seq_token_per_tpu": budget,
            }
        )
        learner.train([toy_batch("ab")] * 3)
        updates.append(learner.rl_cluster.actor_trainer.train_steps)
    print("expected: updates without and with packing: [3, 3]")
    print(f"got: {updates}")
    return updates == [3, 1]
