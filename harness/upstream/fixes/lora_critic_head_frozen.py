"""The head of a critic with LoRA is never trained.

Expected: with adapters on the critic's frozen body and a new value head, both the
adapters and the head are trained.
Got: the adapters alone. The trainer differentiates LoRA parameters only, and neither
updates nor saves the randomly initialized head.
"""

import types
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from tunix.sft import peft_trainer

from harness.upstream.engine import lora_head, points
from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue


class _Adapted(nnx.Module):
    """A frozen weight with an adapter, and a new head."""

    def __init__(self) -> None:
        self.base = nnx.Param(jnp.zeros(2))
        self.adapter = nnx.LoRAParam(jnp.zeros(2))
        self.head = nnx.Param(jnp.zeros(2))


def probe() -> bool:
    """Return whether a new weight beside adapters is not among what a trainer optimizes."""
    trainer = peft_trainer.PeftTrainer(
        _Adapted(),
        optax.sgd(0.1),
        peft_trainer.TrainingConfig(eval_every_n_steps=1, max_steps=1),
        metrics_logger=cast(Any, types.SimpleNamespace()),
    )
    return "head" not in nnx.state(trainer.model, trainer.optimizer.wrt)


ISSUE = KnownIssue(
    id="lora-critic-head-frozen",
    title="The value head of a critic with LoRA is not trained.",
    where="tunix/sft/peft_trainer.py:217",
    effect="Values go through a random head for ever.",
    fix=(
        "The head's weights are parameters of LoRA's kind, by which the trainer finds what it "
        "differentiates, optimizes, saves and restores."
    ),
    probe=probe,
    shown_by=("lora-critic-trains-its-head",),
)


class Critic(nnx.Module):
    """A frozen embedding with an adapter, and a value head."""

    def __init__(self):
        self.embedding = nnx.Param(jax.random.normal(jax.random.key(0), (8, 4)))
        self.adapter_in = nnx.LoRAParam(jnp.full((4, 2), 0.1))
        self.adapter_out = nnx.LoRAParam(jnp.zeros((2, 4)))
        self.head = nnx.Param(jnp.ones((4, 1)))

    def __call__(self, tokens: jax.Array, *_: Any, **__: Any) -> tuple[jax.Array, None]:
        """Return the values."""
        body = self.embedding[...][tokens]
        body = body + body @ self.adapter_in[...] @ self.adapter_out[...]
        return body @ self.head[...], None


def reproduce() -> bool:
    """Return whether the issue shows."""
    learner = toy_learner(critic=Critic(), training={"max_steps": 2})
    critic = learner.rl_cluster.critic_trainer.model
    before = critic.adapter_out[...].copy(), critic.head[...].copy()
    learner.train([toy_batch("ab")] * 2)
    adapter = bool(jnp.any(critic.adapter_out[...] != before[0]))
    head = bool(jnp.any(critic.head[...] != before[1]))
    print("expected: adapter trained: True, head trained: True")
    print(f"got: adapter trained: {adapter}, head trained: {head}")
    return adapter and not head


class Fix(points.Fix):
    """Make the value head parameters of LoRA's kind, which the trainer finds."""

    def critic(self, critic: nnx.Module) -> None:
        lora_head.train_with_adapters(critic)
