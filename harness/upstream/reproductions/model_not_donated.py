"""A train step keeps the old weights beside the new ones.

Expected: the step overwrites what it replaces: weights, and the optimizer's moments.
Got: moments alone. `donate_argnames` names the optimizer, not the model, so a model
that is trained whole takes its room twice while the step runs.
"""

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


def main() -> bool:
    """Gives whether the defect shows."""
    config = peft_trainer.TrainingConfig(eval_every_n_steps=1, max_steps=10)
    actor = trainer.Trainer(Table(jnp.ones((8, 1))), optax.adam(0.1), config, dict)
    actor.with_loss_fn(lambda model, tokens: (model(tokens)[0].mean(), None), has_aux=True)
    model: Any = actor.model
    weights = model.table.get_value()
    moments = jax.tree.leaves(nnx.to_pure_dict(nnx.state(actor.optimizer)["opt_state"]))
    actor.train([{"tokens": jnp.array([[3, 4]])}])
    given = [leaf.is_deleted() for leaf in moments]
    print("expected: the weights before the step are overwritten, as its moments are")
    print(
        f"got: of the moments {sum(given)} of {len(given)}, of the weights {weights.is_deleted()}"
    )
    return any(given) and not weights.is_deleted()


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
