"""The final checkpoint carries no metadata.

Expected: a trainer resumed from the last checkpoint knows the global step, 7 here.
Got: 0. `_save_last_checkpoint` passes no `custom_metadata`; the periodic save does.
"""

import tempfile
import types
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from tunix.rl import trainer
from tunix.sft import peft_trainer


class Table(nnx.Module):
    """A model without a cache, whose output at a token is a row of a table."""

    config = types.SimpleNamespace(num_layers=0, num_kv_heads=1, head_dim=1)

    def __init__(self, table: jax.Array):
        self.table = nnx.Param(table)

    def __call__(self, tokens: jax.Array, *_: Any, **__: Any) -> tuple[jax.Array, dict]:
        """Gives an output and an empty cache."""
        return self.table[tokens], {}


def make(directory: str) -> trainer.Trainer:
    """Builds a trainer that saves to a folder, and resumes from it."""
    config = peft_trainer.TrainingConfig(
        eval_every_n_steps=1, max_steps=10, checkpoint_root_directory=directory
    )
    model = Table(jnp.zeros((8, 1)))
    actor = trainer.Trainer(model, optax.sgd(0.1), config, lambda: {"global_step": 7})
    actor.with_loss_fn(lambda model, tokens: (model(tokens)[0].mean(), None), has_aux=True)
    return actor


def main() -> bool:
    """Gives whether the defect shows."""
    steps, restored = [], []
    for count in (1, 2):  # the first step is saved by interval, the second only at the end
        with tempfile.TemporaryDirectory() as directory:
            make(directory).train([{"tokens": jnp.array([[3, 4]])}] * count)
            resumed = make(directory)
            steps.append(resumed.train_steps)
            restored.append(resumed.restored_global_step())
            resumed.close()
    print("expected: global step 7 from the checkpoints of steps [1, 2]: [7, 7]")
    print(f"got: from the checkpoints of steps {steps}: {restored}")
    return steps == [1, 2] and restored == [7, 0]


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
