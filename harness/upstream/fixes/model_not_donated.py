"""A train step keeps the old weights beside the new ones.

Expected: the step overwrites what it replaces: weights, and the optimizer's moments.
Got: moments alone. `donate_argnames` names the optimizer, not the model, so a model
that is trained whole takes its room twice while the step runs.
"""

import functools
import types
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from tunix.rl import trainer as trainer_lib
from tunix.sft import peft_trainer

from harness.upstream.engine import donation, points
from harness.upstream.fixes._prelude import Table
from harness.upstream.fixes._probing import Row
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a train step takes the optimizer's arrays for its own, and the weights not."""
    trainer = peft_trainer.PeftTrainer(
        Row(),
        optax.sgd(0.1),
        peft_trainer.TrainingConfig(eval_every_n_steps=1, max_steps=1),
        metrics_logger=cast(Any, types.SimpleNamespace()),
    )
    trainer.with_loss_fn(lambda model, x: jnp.sum(cast(Any, model).weights * x))
    trainer.with_gen_model_input_fn(lambda x: {"x": x})
    step: Any = trainer.jit_train_and_eval_step()[0]
    lowered = step.func.lower(trainer.model, trainer.optimizer, jnp.ones(2))
    arguments, _ = lowered.lowered.args_info
    return not any(each.donated for each in jax.tree.leaves(arguments[0]))


ISSUE = KnownIssue(
    id="model-not-donated",
    title="A train step keeps the old weights beside the new ones.",
    where="tunix/sft/peft_trainer.py:422",
    effect=(
        "Old and new weights, frozen ones too, are on the device at once while a step runs, "
        "and scores hand the whole critic back: the reference recipe takes 32.3 GiB in "
        "float32 and does not fit a v6e (compiled)."
    ),
    fix=(
        "The step is compiled over arrays: what is trained is donated, the rest is passed in "
        "and not returned; evaluation and scores return no weights."
    ),
    probe=probe,
    shown_by=("steps-overwrite",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    config = peft_trainer.TrainingConfig(eval_every_n_steps=1, max_steps=10)
    trainer = trainer_lib.Trainer(Table(jnp.ones((8, 1))), optax.adam(0.1), config, dict)
    trainer.with_loss_fn(lambda model, tokens: (model(tokens)[0].mean(), None), has_aux=True)
    model: Any = trainer.model
    weights = model.table.get_value()
    moments = jax.tree.leaves(nnx.to_pure_dict(nnx.state(trainer.optimizer)["opt_state"]))
    trainer.train([{"tokens": jnp.array([[3, 4]])}])
    given = [leaf.is_deleted() for leaf in moments]
    print("expected: the weights before the step are overwritten, as its moments are")
    print(
        f"got: of the moments {sum(given)} of {len(given)}, of the weights {weights.is_deleted()}"
    )
    return any(given) and not weights.is_deleted()


class Fix(points.Fix):
    """Donate what is trained, and return nothing that is only read."""

    def training(self, config: Any) -> None:
        if config.gradient_accumulation_steps == 1:
            # Tunix holds a float32 accumulator of all that is trained, for a sum of one.
            config.gradient_accumulation_steps = None

    def cluster(self, cluster: Any) -> None:
        trainers = (cluster.actor_trainer, cluster.critic_trainer)
        worker = cluster.inference_worker
        trained = [trainer.model for trainer in trainers]
        others = [each for each in worker._models.values() if all(each is not m for m in trained)]
        donation.own_what_is_donated(trainers, others)
        for trainer in trainers:
            donation.install(trainer)
        worker.get_values = functools.partial(donation.get_values, worker)
