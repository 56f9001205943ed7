"""The final checkpoint carries no metadata.

Expected: a trainer resumed from the last checkpoint knows the global step, 7 here.
Got: 0. `_save_last_checkpoint` passes no `custom_metadata`; the periodic save does.
"""

import tempfile
import types
from typing import Any, cast

import jax.numpy as jnp
import optax
from tunix.rl import trainer as trainer_lib
from tunix.sft import peft_trainer

from harness.upstream.fixes._prelude import Table
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether the last checkpoint is saved without metadata."""
    saved: dict[str, Any] = {}
    manager = types.SimpleNamespace(
        latest_step=lambda: None, save=lambda *args, **kwargs: saved.update(kwargs)
    )
    trainer = types.SimpleNamespace(
        checkpoint_manager=manager,
        model=None,
        optimizer=None,
        _train_steps=1,
        _lora_enabled=True,
        custom_checkpoint_metadata=lambda: {"global_step": 1},
    )
    peft_trainer.PeftTrainer._save_last_checkpoint(cast(Any, trainer))
    return not saved.get("custom_metadata")


ISSUE = KnownIssue(
    id="last-checkpoint-no-metadata",
    title="The last checkpoint does not say which global step it is of.",
    where="tunix/sft/peft_trainer.py:760",
    effect="A run that goes on from it counts its global steps from 0 again.",
    fix="It is saved with the metadata of every other checkpoint, and the right step.",
    probe=probe,
    shown_by=("restored-state",),
    engine=True,
)


def trainer_saving_to(directory: str) -> trainer_lib.Trainer:
    """Return a trainer that saves to a folder, and resumes from it."""
    config = peft_trainer.TrainingConfig(
        eval_every_n_steps=1, max_steps=10, checkpoint_root_directory=directory
    )
    model = Table(jnp.zeros((8, 1)))
    trainer = trainer_lib.Trainer(model, optax.sgd(0.1), config, lambda: {"global_step": 7})
    trainer.with_loss_fn(lambda model, tokens: (model(tokens)[0].mean(), None), has_aux=True)
    return trainer


def reproduce() -> bool:
    """Return whether the issue shows."""
    steps, restored = [], []
    for count in (1, 2):  # the first step is saved by interval, the second only at the end
        with tempfile.TemporaryDirectory() as directory:
            trainer_saving_to(directory).train([{"tokens": jnp.array([[3, 4]])}] * count)
            resumed = trainer_saving_to(directory)
            steps.append(resumed.train_steps)
            restored.append(resumed.restored_global_step())
            resumed.close()
    print("expected: global step 7 from the checkpoints of steps [1, 2]: [7, 7]")
    print(f"got: from the checkpoints of steps {steps}: {restored}")
    return steps == [1, 2] and restored == [7, 0]
