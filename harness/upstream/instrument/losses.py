"""A learner's own losses and advantages, on inputs made by hand instead of a model's."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.rl.ppo import ppo_learner

from harness import recipe as recipe_lib
from harness.upstream import compat
from harness.upstream.engine import learner as learner_lib
from harness.upstream.engine.points import Fix
from harness.upstream.fixes import registry
from harness.upstream.selection import Fixes

VALUE_FIGURES = compat.VALUE_FIGURES
REPORTS_UNUSED_LOWER_CLIP = compat.REPORTS_UNUSED_LOWER_CLIP
_ESTIMATOR = "advantage_estimator"


class _Table(nnx.Module):
    """A model whose outputs are its only parameter, whatever it is given."""

    def __init__(self, outputs: jax.Array):
        self.outputs = nnx.Param(outputs)

    def __call__(self, tokens: jax.Array, **kwargs: Any) -> tuple[jax.Array, None]:
        del tokens, kwargs
        return self.outputs.get_value(), None


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a loss gives.

    Attributes:
      loss: The loss.
      aux: Figures reported beside it, by upstream's names.
      gradient: Derivative of the loss by the model's outputs, of their shape.
    """

    loss: float
    aux: dict[str, float]
    gradient: np.ndarray


def policy_loss(
    learner: learner_lib.Learner,
    logits: np.ndarray,
    example: Mapping[str, np.ndarray],
    ppo: recipe_lib.Ppo | None = None,
) -> Figures:
    """Return the policy's loss as the learner's trainer computes it.

    Args:
      learner: Its fixes count.
      logits: [B, P + T, V] outputs of the policy for prompt and completion.
      example: Fields of upstream's example by name: `prompt_ids` [B, P], the
        others [B, T]. What is absent is none.
      ppo: Other numbers than the learner's own.

    Returns:
      Loss, what is reported beside it, and gradient by the logits.
    """
    trainer = learner.rl_cluster.actor_trainer
    inputs = trainer.gen_model_input_fn
    if ppo is not None:
        config = learner_lib.ppo_config(ppo, fixes_of(learner))
        inputs = functools.partial(_with_config, inputs, config)
    return _figures(trainer.loss_fn, inputs, logits, example)


def value_loss(
    learner: learner_lib.Learner, values: np.ndarray, example: Mapping[str, np.ndarray]
) -> Figures:
    """Return the critic's loss as the learner's trainer computes it.

    Args:
      learner: Its fixes count.
      values: [B, P + T, 1] outputs of the critic for prompt and completion.
      example: As for `policy_loss`.

    Returns:
      Loss, what is reported beside it, and gradient by the values.
    """
    trainer = learner.rl_cluster.critic_trainer
    return _figures(trainer.loss_fn, trainer.gen_model_input_fn, values, example)


def advantages(
    learner: learner_lib.Learner,
    rewards: np.ndarray,
    values: np.ndarray,
    mask: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return whitened advantages and returns as the learner estimates them.

    Args:
      learner: Its fixes count.
      rewards: [B, T].
      values: [B, T] of the states before the tokens.
      mask: [B, T] bool, or 0 and 1.
      gamma: Discount.
      gae_lambda: Lambda of GAE.

    Returns:
      Advantages and returns, [B, T] each.
    """
    estimator = ppo_learner.registry.get(_ESTIMATOR, learner.algo_config.advantage_estimator)
    if isinstance(learner, learner_lib.EngineLearner):
        estimator = learner.estimator(estimator)
    found = estimator(
        rewards=jnp.asarray(rewards, jnp.float32),
        values=jnp.asarray(values, jnp.float32),
        completion_mask=jnp.asarray(mask),
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    return np.array(found[0]), np.array(found[1])


def epsilons(ppo: recipe_lib.Ppo, fixes: Fixes) -> tuple[float, float]:
    """Return the lower and the upper clip range that upstream's configuration holds."""
    config = learner_lib.ppo_config(ppo, registry.fixes_of(fixes))
    return float(config.epsilon_low or 0.0), float(config.epsilon_high or 0.0)


def fixes_of(learner: learner_lib.Learner) -> Sequence[Fix]:
    """Return the fixes of a learner, none if it is stock."""
    return learner.fixes if isinstance(learner, learner_lib.EngineLearner) else ()


def _with_config(inputs: Callable[[Any], Any], config: Any, example: Any) -> dict[str, Any]:
    return {**inputs(example), **compat.numbers_of(config)}


def _figures(
    loss_fn: Any, inputs: Any, outputs: np.ndarray, example: Mapping[str, np.ndarray]
) -> Figures:
    names = (each.name for each in dataclasses.fields(ppo_learner.TrainExample))  # type: ignore[arg-type]
    fields = {**dict.fromkeys(names), **{name: jnp.asarray(x) for name, x in example.items()}}
    loss, aux, gradient = _loss_and_gradient(
        jnp.asarray(outputs, jnp.float32), ppo_learner.TrainExample(**fields), loss_fn, inputs
    )
    return Figures(
        float(loss), {name: float(each) for name, each in aux.items()}, np.array(gradient)
    )


# Compiled once for each learner: the functions are its trainers' own.
@functools.partial(jax.jit, static_argnames=("loss_fn", "inputs"))
def _loss_and_gradient(outputs: jax.Array, example: Any, loss_fn: Any, inputs: Any) -> Any:
    differentiated = nnx.value_and_grad(loss_fn, has_aux=True)
    (loss, aux), gradient = differentiated(_Table(outputs), **inputs(example))
    return loss, aux, gradient["outputs"].get_value()
