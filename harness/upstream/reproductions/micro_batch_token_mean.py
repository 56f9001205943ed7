"""The policy's update depends on how a mini-batch is cut into micro-batches.

Expected: one update on two completions is the same from one micro-batch of two as
from two micro-batches of one.
Got: the loss is a mean over the tokens of each micro-batch, and micro-batches are
averaged with equal weights, so a token of a short completion counts more.
"""

# pyright: reportCallIssue=false

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.rl import algo_core, common, trainer
from tunix.rl.ppo import ppo_learner
from tunix.sft import peft_trainer


class Table(nnx.Module):
    """A model without a cache, whose output at a token is a row of a table."""

    config = types.SimpleNamespace(num_layers=0, num_kv_heads=1, head_dim=1)

    def __init__(self, table: jax.Array):
        self.table = nnx.Param(table)

    def __call__(self, tokens: jax.Array, *_: Any, **__: Any) -> tuple[jax.Array, dict]:
        """Gives an output and an empty cache."""
        return self.table[tokens], {}


def update(examples: list[common.TrainExample]) -> np.ndarray:
    """Gives the change of the policy by one optimizer step on the examples."""
    model = Table(jnp.zeros((8, 8)))
    config = peft_trainer.TrainingConfig(
        eval_every_n_steps=1, gradient_accumulation_steps=len(examples)
    )
    actor = trainer.Trainer(model, optax.sgd(1.0), config, dict)
    actor.with_loss_fn(algo_core.ppo_policy_loss_fn, has_aux=True)
    settings = {"algo_config": ppo_learner.PPOConfig(), "pad_id": 0, "eos_id": 1}
    actor.with_gen_model_input_fn(lambda example: {"train_example": example, **settings})
    actor.train(examples)
    return np.asarray(model.table[...])


def main() -> bool:
    """Gives whether the defect shows."""
    tokens = jnp.array([[5, 0, 0, 0, 0, 0, 0], [6, 6, 6, 6, 6, 6, 6]])  # 1 and 7 tokens
    both = common.TrainExample(
        prompt_ids=jnp.full((2, 1), 3),
        prompt_mask=jnp.ones((2, 1)),
        completion_ids=tokens,
        completion_mask=tokens != 0,
        advantages=jnp.ones((2, 7)),
        ref_per_token_logps=None,
        old_per_token_logps=jnp.full((2, 7), -jnp.log(8.0)),
    )
    rows = [jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], both) for row in range(2)]
    one, two = update([both])[3, 5], update(rows)[3, 5]
    print(f"expected: the logit of the short completion's token rises by {one:.4f}")
    print(f"got: it rises by {two:.4f} with micro-batches of one")
    return bool(abs(one - two) > 1e-3)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
