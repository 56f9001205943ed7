"""A checkpoint in mid-batch says that the batch is done.

Expected: after the first of the two mini-batches of the first batch, a resume is at
global step 0.
Got: at 1. Every checkpoint is given the current global step plus one.
"""

import shutil
import tempfile
import types
from typing import Any, cast

import jax.numpy as jnp
import optax
from tunix.sft import peft_trainer

from harness.upstream.fixes._prelude import saving_each_step, toy_batch, toy_learner
from harness.upstream.fixes._probing import Row
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a trainer saves at a step of its own, whatever manages it."""
    saved: list[int] = []
    trainer = peft_trainer.PeftTrainer(
        Row(),
        optax.sgd(0.1),
        peft_trainer.TrainingConfig(eval_every_n_steps=9, max_steps=None),
        metrics_logger=cast(Any, types.SimpleNamespace(log=lambda *args, **kwargs: None)),
    )
    trainer.is_managed_externally = True
    # Nothing is computed: when it saves is all that is asked.
    idle = (lambda example: (jnp.zeros(()), {}, 0.0), None)
    trainer.jit_train_and_eval_step = lambda *args, **kwargs: cast(Any, idle)
    manager: Any = trainer.checkpoint_manager
    manager.save = lambda step, *args, **kwargs: saved.append(step)
    trainer.train([jnp.ones(2)], skip_jit=True)
    return bool(saved)


ISSUE = KnownIssue(
    id="resume-mid-batch-step",
    title="A checkpoint within a batch says that the batch is done.",
    where="tunix/rl/rl_cluster.py:553",
    effect="After a resume the global step is ahead and metrics are shifted.",
    fix="A checkpoint that falls due within a batch is made at its end.",
    probe=probe,
    shown_by=("checkpoints-end-a-batch",),
    engine=True,
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    with tempfile.TemporaryDirectory() as directory:
        training = {"max_steps": 2, "mini_batch_size": 1, **saving_each_step(directory)}
        toy_learner(training=training).train([toy_batch("ab")])
        for role in ("actor", "critic"):  # as if the run had ended after the first mini-batch
            shutil.rmtree(f"{directory}/{role}/2")
        cluster = toy_learner(training=training).rl_cluster
    steps = cluster.actor_trainer.train_steps, cluster.global_steps
    print("expected: 1 optimizer step of 2, global step 0")
    print(f"got: {steps[0]} of 2, global step {steps[1]}")
    return steps == (1, 1)
