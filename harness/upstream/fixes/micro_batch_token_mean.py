"""The policy's update depends on how a mini-batch is cut into micro-batches.

Expected: one update on two completions is the same from one micro-batch of two as
from two micro-batches of one.
Got: the loss is a mean over the tokens of each micro-batch, and micro-batches are
averaged with equal weights, so a token of a short completion counts more.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tunix.rl import common
from tunix.rl import trainer as trainer_lib
from tunix.rl.ppo import ppo_learner
from tunix.sft import peft_trainer

from harness.upstream.engine import points
from harness.upstream.fixes._prelude import Table, policy_loss
from harness.upstream.fixes._probing import loss_of_log_probs
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether the loss of two completions depends on whether they are taken together."""
    advantages = jnp.array([[1.0, 0.0], [-1.0, -1.0]])
    mask = jnp.array([[True, False], [True, True]])

    def loss(rows: slice) -> float:
        return float(loss_of_log_probs(jnp.zeros((2, 2))[rows], advantages[rows], mask[rows]))

    together, apart = loss(slice(0, 2)), (loss(slice(0, 1)) + loss(slice(1, 2))) / 2
    return abs(together - apart) > 1e-3


ISSUE = KnownIssue(
    id="micro-batch-token-mean",
    title="Losses are token means of each micro-batch, which then count alike.",
    where="tunix/rl/algo_core.py:246",
    effect=(
        "A token of a short completion weighs more than one of a long one, by how the "
        "mini-batch was cut: relative gradient error 0.07 to 0.53 over lengths 1 to 12."
    ),
    fix="The loss of a micro-batch is weighted by its share of the mini-batch's tokens.",
    probe=probe,
    shown_by=("losses", "slopes"),
)


def update(examples: list[common.TrainExample]) -> np.ndarray:
    """Return the table [8, 8] of the policy after one optimizer step on the examples."""
    model = Table(jnp.zeros((8, 8)))
    config = peft_trainer.TrainingConfig(
        eval_every_n_steps=1, gradient_accumulation_steps=len(examples)
    )
    trainer = trainer_lib.Trainer(model, optax.sgd(1.0), config, dict)
    trainer.with_loss_fn(policy_loss, has_aux=True)
    trainer.with_gen_model_input_fn(lambda example: {"train_example": example})
    trainer.train(examples)
    return np.asarray(model.table[...])


def reproduce() -> bool:
    """Return whether the issue shows."""
    tokens = jnp.array([[5, 0, 0, 0, 0, 0, 0], [6, 6, 6, 6, 6, 6, 6]])  # 1 and 7 tokens
    kind: Any = common.TrainExample
    both = kind(
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


@flax.struct.dataclass(frozen=True)
class WeightedExample(ppo_learner.TrainExample):
    """A micro-batch with its part of the mini-batch.

    Attributes:
      token_weight: [B] float32, the same in each row: real tokens of the micro-batch over the
        mean of the micro-batches of its optimizer step.
    """

    token_weight: jax.Array | None = None


class Fix(points.Fix):
    """Weight the loss of a micro-batch by its share of the tokens behind the optimizer step."""

    def weigh(self, examples: list[Any]) -> list[Any]:
        tokens = [float(np.asarray(example.completion_mask).sum()) for example in examples]
        mean = max(sum(tokens), 1.0) / max(len(tokens), 1)
        return [
            _weighted(
                example, jnp.asarray(np.full(len(example.completion_mask), own / mean, np.float32))
            )
            for example, own in zip(examples, tokens, strict=True)
        ]

    def example_shapes(self, example: Any) -> Any:
        rows = example.completion_mask.shape[0]
        return _weighted(example, jax.ShapeDtypeStruct((rows,), jnp.float32))

    def loss(self, loss_fn: points.LossFn) -> points.LossFn:
        @functools.wraps(loss_fn)  # flax asks for the names of the arguments
        def loss(model: Any, train_example: Any, *args: Any, **kwargs: Any) -> Any:
            value, aux = loss_fn(model, train_example, *args, **kwargs)
            token_weight = getattr(train_example, "token_weight", None)
            if token_weight is None:
                return value, aux
            # A token mean of each micro-batch, so weighed, is after accumulation
            # the token mean of the mini-batch.
            return value * token_weight[0], {
                name: each * token_weight[0] for name, each in aux.items()
            }

        return loss


def _weighted(example: Any, token_weight: Any) -> WeightedExample:
    names = [field.name for field in dataclasses.fields(ppo_learner.TrainExample)]  # type: ignore[arg-type]
    fields = {name: getattr(example, name) for name in names}
    return WeightedExample(**fields, token_weight=token_weight)
