"""One evaluation is run again for every micro-batch of the step.

Expected: with eval_every_n_steps=2 and one optimizer step of four micro-batches,
one evaluation, before the first update.
Got: four, on the same examples and weights: `PeftTrainer.train` evaluates whenever
it is given evaluation data, and the learner calls it once per micro-batch.
"""

from typing import Any

from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="eval-repeated",
    title="One evaluation is run again at every micro-batch of the step.",
    where="tunix/sft/peft_trainer.py:616",
    effect="Time, and a logged evaluation loss with repeats.",
    shown_by=("eval-uses-all",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    learner = toy_learner(
        training={
            "eval_every_n_steps": 2,
            "max_steps": 1,
            "mini_batch_size": 4,
            "train_micro_batch_size": 1,
        }
    )
    steps: list[int] = []
    trainer = learner.rl_cluster.actor_trainer
    evaluate = trainer._run_eval

    def recorded(*arguments: Any) -> None:
        steps.append(trainer.train_steps)
        evaluate(*arguments)

    trainer._run_eval = recorded
    learner.train([toy_batch("abcd")], eval_ds=[toy_batch("a")])
    print("expected: evaluations at steps [0]")
    print(f"got: {steps}")
    return len(steps) > 1
