"""The losses of PPO, and their gradients in closed form.

Sources: Schulman et al., "Proximal Policy Optimization Algorithms" (2017, arXiv
1707.06347), equation 7, for the clipped surrogate; Ye et al., "Mastering Complex
Control in MOBA Games with Deep Reinforcement Learning" (2020, arXiv 1912.09729),
equation 5, for the second clip; Huang et al., "The 37 Implementation Details of
Proximal Policy Optimization" (2022), detail 9, for the clipped value loss, which
no equation of the first paper has.

Losses are means over all real tokens of what is given. With no real token, every
loss, fraction and gradient is 0.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.oracle import logprob
from harness.oracle.advantage import masked, masked_mean

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyLoss:
    """The policy's loss, and what it is made of.

    Attributes:
      loss: Mean of `per_token` over real tokens.
      per_token: `[B, T]`, the negated objective; 0 at masked positions.
      ratio: `[B, T]`, new over old probability; 1 at masked positions.
      clip_fraction: Share of real tokens, in 0 to 1, whose clipped objective is
        strictly the smaller one.
      lower_clip_fraction: Share of real tokens, in 0 to 1, whose objective the
        second clip raises.
    """

    loss: float
    per_token: Array
    ratio: Array
    clip_fraction: float
    lower_clip_fraction: float


@dataclasses.dataclass(frozen=True, eq=False)
class ValueLoss:
    """The critic's loss, and what it is made of.

    Attributes:
      loss: Mean of `per_token` over real tokens.
      per_token: `[B, T]`, half the larger squared error; 0 at masked positions.
      clip_fraction: Share of real tokens, in 0 to 1, whose clipped value has
        strictly the larger error.
      mean_value: Mean of the new values over real tokens.
    """

    loss: float
    per_token: Array
    clip_fraction: float
    mean_value: float


@dataclasses.dataclass(frozen=True, eq=False)
class _Surrogate:
    ratio: Array
    advantage: Array
    objective: Array
    clipped: NDArray[np.bool_]
    lower_clipped: NDArray[np.bool_]


def policy_loss(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    mask: ArrayLike,
    epsilon_low: float,
    epsilon_high: float,
    epsilon_c: float | None = None,
) -> PolicyLoss:
    """Return the negated clipped surrogate objective.

    With `r = exp(log_probs - old_log_probs)` a token's objective is `min(r A,
    clip(r, 1 - epsilon_low, 1 + epsilon_high) A)`; the paper has one epsilon.
    With `epsilon_c`, it is at least `epsilon_c A` where `A < 0`.

    Args:
      log_probs: `[B, T]` of the policy that is trained, in nats.
      old_log_probs: `[B, T]` of the policy that drew the tokens.
      advantages: `[B, T]`.
      mask: `[B, T]`.
      epsilon_low: How far below 1 a ratio counts; not negative.
      epsilon_high: How far above 1 a ratio counts; not negative.
      epsilon_c: The second clip's bound on the ratio, above 1; none without it.

    Returns:
      The loss and its parts.

    Raises:
      ValueError: Shapes differ, or a bound lies outside its range.
    """
    parts = _surrogate(
        log_probs, old_log_probs, advantages, mask, epsilon_low, epsilon_high, epsilon_c
    )
    per_token = masked(-parts.objective, mask)
    return PolicyLoss(
        loss=float(masked_mean(per_token, mask)),
        per_token=per_token,
        ratio=parts.ratio,
        clip_fraction=float(masked_mean(parts.clipped, mask)),
        lower_clip_fraction=float(masked_mean(parts.lower_clipped, mask)),
    )


def policy_loss_gradient(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    mask: ArrayLike,
    epsilon_low: float,
    epsilon_high: float,
    epsilon_c: float | None = None,
) -> Array:
    """Return the derivative of the policy's loss by `log_probs`.

    As `dr/dlog_prob = r`, it is `-r A / n` for `n` real tokens, and 0 where a
    clip decides. At a ratio that equals a bound the loss has a kink; there the
    derivative of the unclipped side is given.

    Args:
      log_probs: As for `policy_loss`, and so are the others.
      old_log_probs: `[B, T]`.
      advantages: `[B, T]`.
      mask: `[B, T]`.
      epsilon_low: Not negative.
      epsilon_high: Not negative.
      epsilon_c: Above 1, or none.

    Returns:
      `[B, T]`, exactly 0 at masked positions.

    Raises:
      ValueError: As for `policy_loss`.
    """
    parts = _surrogate(
        log_probs, old_log_probs, advantages, mask, epsilon_low, epsilon_high, epsilon_c
    )
    moving = (np.asarray(mask) != 0) & ~parts.clipped & ~parts.lower_clipped
    return np.where(moving, -parts.ratio * parts.advantage, 0.0) / _count(mask)


def value_loss(
    values: ArrayLike,
    old_values: ArrayLike,
    returns: ArrayLike,
    mask: ArrayLike,
    clip_range: float,
) -> ValueLoss:
    """Return half the mean of the larger of two squared errors.

    One error is that of the value, the other that of the value kept within
    `clip_range` of the old one.

    Args:
      values: `[B, T]` of the critic that is trained.
      old_values: `[B, T]` of the critic when the tokens were drawn.
      returns: `[B, T]` targets.
      mask: `[B, T]`.
      clip_range: How far a value may move, in its own unit; not negative.

    Returns:
      The loss and its parts.

    Raises:
      ValueError: Shapes differ, or the range is negative.
    """
    error, clipped_error = _value_errors(values, old_values, returns, mask, clip_range)
    per_token = masked(np.maximum(error**2, clipped_error**2) / 2, mask)
    return ValueLoss(
        loss=float(masked_mean(per_token, mask)),
        per_token=per_token,
        clip_fraction=float(masked_mean(clipped_error**2 > error**2, mask)),
        mean_value=float(masked_mean(values, mask)),
    )


def value_loss_gradient(
    values: ArrayLike,
    old_values: ArrayLike,
    returns: ArrayLike,
    mask: ArrayLike,
    clip_range: float,
) -> Array:
    """Return the derivative of the critic's loss by `values`.

    It is `(V - R) / n` for `n` real tokens, and 0 where the clipped error is
    strictly the larger one: a value is then outside its range, where the clipped
    one does not move. Where both errors are equal outside the range the loss has
    a kink; there the derivative of the unclipped error is given.

    Args:
      values: As for `value_loss`, and so are the others.
      old_values: `[B, T]`.
      returns: `[B, T]`.
      mask: `[B, T]`.
      clip_range: Not negative.

    Returns:
      `[B, T]`, exactly 0 at masked positions.

    Raises:
      ValueError: As for `value_loss`.
    """
    error, clipped_error = _value_errors(values, old_values, returns, mask, clip_range)
    return masked(np.where(clipped_error**2 > error**2, 0.0, error), mask) / _count(mask)


def entropy_bonus(logits: ArrayLike, mask: ArrayLike, temperature: float = 1.0) -> float:
    """Return the mean entropy of real tokens, to be *added* to the objective.

    It is `S` in equation 9 of the PPO paper, without its coefficient.

    Args:
      logits: `[B, T, V]`, finite or minus infinity at real tokens.
      mask: `[B, T]`.
      temperature: Positive divisor of the logits.

    Returns:
      In nats.

    Raises:
      ValueError: Shapes do not fit, or the temperature is not positive.
    """
    return float(masked_mean(logprob.entropy(_real_logits(logits, mask), temperature), mask))


def entropy_bonus_gradient(logits: ArrayLike, mask: ArrayLike, temperature: float = 1.0) -> Array:
    """Return the derivative of the mean entropy by the logits.

    Args:
      logits: `[B, T, V]`, as for `entropy_bonus`.
      mask: `[B, T]`.
      temperature: Positive divisor of the logits.

    Returns:
      `[B, T, V]`, exactly 0 at masked positions.

    Raises:
      ValueError: As for `entropy_bonus`.
    """
    gradient = logprob.entropy_gradient(_real_logits(logits, mask), temperature)
    return np.where((np.asarray(mask) != 0)[..., None], gradient, 0.0) / _count(mask)


def _surrogate(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    mask: ArrayLike,
    epsilon_low: float,
    epsilon_high: float,
    epsilon_c: float | None,
) -> _Surrogate:
    if epsilon_low < 0 or epsilon_high < 0:
        raise ValueError(f"epsilons {epsilon_low} and {epsilon_high} must not be negative")
    if epsilon_c is not None and not epsilon_c > 1:
        raise ValueError(f"epsilon_c {epsilon_c} must be above 1")
    ratio = np.exp(masked(log_probs, mask) - masked(old_log_probs, mask))
    advantage = masked(advantages, mask)
    plain = ratio * advantage
    bounded = np.clip(ratio, 1 - epsilon_low, 1 + epsilon_high) * advantage
    objective = np.minimum(plain, bounded)
    lower_clipped = np.zeros(ratio.shape, bool)
    if epsilon_c is not None:
        lower_clipped = (advantage < 0) & (epsilon_c * advantage > objective)
        objective = np.where(lower_clipped, epsilon_c * advantage, objective)
    return _Surrogate(ratio, advantage, objective, bounded < plain, lower_clipped)


def _value_errors(
    values: ArrayLike,
    old_values: ArrayLike,
    returns: ArrayLike,
    mask: ArrayLike,
    clip_range: float,
) -> tuple[Array, Array]:
    if clip_range < 0:
        raise ValueError(f"clip_range {clip_range} must not be negative")
    new, old, target = (masked(each, mask) for each in (values, old_values, returns))
    return new - target, np.clip(new, old - clip_range, old + clip_range) - target


def _real_logits(logits: ArrayLike, mask: ArrayLike) -> Array:
    z = np.asarray(logits, np.float64)
    real = np.asarray(mask) != 0
    if z.shape[:-1] != real.shape:
        raise ValueError(f"logits of shape {z.shape} under a mask of shape {real.shape}")
    return np.where(real[..., None], z, 0.0)


def _count(mask: ArrayLike) -> int:
    return max(int(np.count_nonzero(mask)), 1)
