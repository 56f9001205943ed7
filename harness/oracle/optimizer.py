"""One optimizer step: rate, accumulation, clipping, AdamW.

Weights and gradients are mappings from a name to an array; all arithmetic is
float64. The gradients are given: nothing here differentiates.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class AdamWState:
    """What AdamW remembers between two steps.

    Attributes:
      step: Steps taken.
      mean: First moment of the gradients, not corrected, by name.
      variance: Second raw moment of the gradients, not corrected, by name.
    """

    step: int
    mean: Tensors
    variance: Tensors


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How `train` turns gradients into steps.

    Attributes:
      peak: Learning rate at the end of the warm-up.
      warmup_steps: Optimizer steps of warm-up; need not be whole.
      total_steps: Optimizer step at which the learning rate is 0.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      weight_decay: Decoupled weight decay.
      eps: Added to the root of the second moment.
      max_grad_norm: Bound of the global norm; none does not clip.
    """

    peak: float
    warmup_steps: float
    total_steps: float
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    eps: float = 1e-8
    max_grad_norm: float | None = None


def learning_rate(step: int, peak: float, warmup_steps: float, total_steps: float) -> float:
    """Learning rate at an optimizer step counted from 0.

    Linear from 0 to `peak` over the warm-up, then half a cosine to 0
    (Loshchilov and Hutter, arXiv:1608.03983, eq. 5, one period, eta_min 0).

    Args:
      step: Optimizer steps already taken.
      peak: Rate at the end of the warm-up.
      warmup_steps: Length of the warm-up in steps; need not be whole.
      total_steps: Step from which the rate is 0; counts the warm-up.

    Returns:
      The rate.

    Raises:
      ValueError: `step` or `warmup_steps` is negative, or no step is left after
        the warm-up.
    """
    if step < 0 or warmup_steps < 0:
        raise ValueError("step and warmup_steps must not be negative")
    if warmup_steps >= total_steps:
        raise ValueError("total_steps must be more than warmup_steps")
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def global_norm(gradients: Tensors) -> float:
    """Euclidean norm of all gradients taken as one vector.

    Args:
      gradients: Gradients by name, any shapes.

    Returns:
      The norm; 0 without gradients.
    """
    return math.sqrt(sum(float(np.sum(np.square(g))) for g in _float64(gradients).values()))


def clip_by_global_norm(gradients: Tensors, max_norm: float) -> dict[str, np.ndarray]:
    """Shrink gradients, all by one factor, to a bounded global norm.

    Pascanu et al. 2013, arXiv:1211.5063, algorithm 1.

    Args:
      gradients: Gradients by name, any shapes.
      max_norm: The bound, positive.

    Returns:
      New float64 gradients, of the same direction.

    Raises:
      ValueError: `max_norm` is not positive.
    """
    if not max_norm > 0:
        raise ValueError("max_norm must be positive")
    norm = global_norm(gradients)
    scale = max_norm / norm if norm > max_norm else 1.0
    return {name: gradient * scale for name, gradient in _float64(gradients).items()}


def initial_state(weights: Tensors) -> AdamWState:
    """AdamW's state before the first step: both moments 0.

    Args:
      weights: Weights by name, any shapes.

    Returns:
      The state, float64, of the weights' names and shapes.
    """
    zeros = {name: np.zeros(np.shape(weight)) for name, weight in weights.items()}
    return AdamWState(0, zeros, {name: zero.copy() for name, zero in zeros.items()})


def adamw_step(
    weights: Tensors,
    gradients: Tensors,
    state: AdamWState,
    learning_rate: float,
    b1: float,
    b2: float,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[dict[str, np.ndarray], AdamWState]:
    """One step of AdamW.

    Loshchilov and Hutter, arXiv:1711.05101, algorithm 2. The schedule multiplier
    and the step size of line 12 are one number here, `learning_rate`, which
    multiplies the decay too: lr * (m / (sqrt(v) + eps) + weight_decay * w).

    Args:
      weights: Weights by name, any shapes.
      gradients: Their gradients, of the same names and shapes.
      state: State before the step.
      learning_rate: Rate of this step.
      b1: Decay of the first moment, in [0, 1).
      b2: Decay of the second moment, in [0, 1).
      eps: Added to the root of the corrected second moment.
      weight_decay: Decoupled decay; the gradients do not contain it.

    Returns:
      New float64 weights and the state after the step.

    Raises:
      ValueError: Names or shapes differ.
    """
    weights, gradients = _float64(weights), _float64(gradients)
    for other in (gradients, state.mean, state.variance):
        if {k: np.shape(v) for k, v in other.items()} != {k: v.shape for k, v in weights.items()}:
            raise ValueError("weights, gradients and state must have the same names and shapes")
    step = state.step + 1
    new_weights, mean, variance = {}, {}, {}
    for name, weight in weights.items():
        gradient = gradients[name]
        mean[name] = b1 * state.mean[name] + (1 - b1) * gradient
        variance[name] = b2 * state.variance[name] + (1 - b2) * gradient**2
        # Both moments start at 0 and are too small by these factors.
        corrected_mean = mean[name] / (1 - b1**step)
        corrected_variance = variance[name] / (1 - b2**step)
        direction = corrected_mean / (np.sqrt(corrected_variance) + eps)
        new_weights[name] = weight - learning_rate * (direction + weight_decay * weight)
    return new_weights, AdamWState(step, mean, variance)


def accumulate(gradients: Sequence[Tensors]) -> dict[str, np.ndarray]:
    """Mean gradient over micro-batches, each of equal weight.

    Args:
      gradients: One mapping for each micro-batch, all of the same names.

    Returns:
      The mean, float64, by name.

    Raises:
      ValueError: There is no micro-batch, or names differ.
    """
    if not gradients:
        raise ValueError("at least one micro-batch is needed")
    names = list(gradients[0])
    if any(set(each) != set(names) for each in gradients):
        raise ValueError("micro-batches must have gradients of the same names")
    return {
        name: np.mean([np.asarray(each[name], np.float64) for each in gradients], axis=0)
        for name in names
    }


def train(
    weights: Tensors,
    micro_gradients: Sequence[Sequence[Tensors]],
    config: TrainConfig,
    state: AdamWState | None = None,
) -> tuple[dict[str, np.ndarray], AdamWState]:
    """Run several optimizer steps on given gradients.

    Each step takes the mean of its micro-batches' gradients, clips that mean
    by its global norm, and applies AdamW at the rate of the steps already taken.

    Args:
      weights: Weights by name, any shapes.
      micro_gradients: For each optimizer step its micro-batches' gradients.
      config: Rates and constants.
      state: State to go on from; none starts anew.

    Returns:
      Weights after the last step, float64, and the state after it.

    Raises:
      ValueError: A step has no micro-batch, or names or shapes differ.
    """
    current = _float64(weights)
    state = initial_state(current) if state is None else state
    for micro_batches in micro_gradients:
        gradients = accumulate(micro_batches)
        if config.max_grad_norm is not None:
            gradients = clip_by_global_norm(gradients, config.max_grad_norm)
        current, state = adamw_step(
            current,
            gradients,
            state,
            learning_rate(state.step, config.peak, config.warmup_steps, config.total_steps),
            config.b1,
            config.b2,
            config.eps,
            config.weight_decay,
        )
    return current, state


def _float64(tensors: Tensors) -> dict[str, np.ndarray]:
    return {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}
