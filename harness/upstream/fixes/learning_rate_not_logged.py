"""The learning rate is not found behind gradient clipping.

Expected: an optimizer with injected hyperparameters logs its learning rate, also in
`optax.chain` after `clip_by_global_norm`.
Got: not so. The search for it stops at the clipping's empty state.
"""

import optax
from flax import nnx
from tunix.sft import peft_trainer

from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="learning-rate-not-logged",
    title="The learning rate is not found behind gradient clipping.",
    where="tunix/sft/peft_trainer.py:459",
    effect="It is missing in the log of the usual optimizer.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    adam = optax.inject_hyperparams(optax.adamw)(learning_rate=0.5)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), adam)
    rates = []
    for optimizer in (adam, clipped):
        model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
        trainer = peft_trainer.PeftTrainer(
            model, optimizer, peft_trainer.TrainingConfig(eval_every_n_steps=1)
        )
        rate = trainer._try_get_learning_rate()
        rates.append(None if rate is None else float(rate))
    print("expected: alone and clipped: [0.5, 0.5]")
    print(f"got: {rates}")
    return rates == [0.5, None]
