"""Masked statistics, whitening, and generalized advantage estimation.

Source of the latter: Schulman et al., "High-Dimensional Continuous Control Using
Generalized Advantage Estimation" (2016, arXiv 1506.02438).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def masked(x: ArrayLike, mask: ArrayLike, fill: float = 0.0) -> Array:
    """Return `x` in float64, with another value wherever the mask is 0.

    Args:
      x: Any shape.
      mask: The same shape; anything but 0 marks a real token.
      fill: What masked positions hold.

    Returns:
      A new array of that shape.

    Raises:
      ValueError: Shapes differ. Broadcasting would hide a wrong axis.
    """
    values = np.asarray(x, np.float64)
    real = np.asarray(mask)
    if values.shape != real.shape:
        raise ValueError(f"an array of shape {values.shape} under a mask of shape {real.shape}")
    return np.where(real != 0, values, fill)


def masked_mean(x: ArrayLike, mask: ArrayLike, axis: int | None = None) -> Array | np.float64:
    """Return the mean over real tokens.

    Args:
      x: `[B, T]`, or any other shape.
      mask: The same shape.
      axis: The axis averaged over; all, if none.

    Returns:
      A scalar, or an array without `axis`; 0 where there is no real token.

    Raises:
      ValueError: Shapes differ.
    """
    total = masked(x, mask).sum(axis=axis)
    return total / np.maximum(np.count_nonzero(mask, axis=axis), 1)


def masked_variance(x: ArrayLike, mask: ArrayLike) -> np.float64:
    """Return the unbiased variance over all real tokens, dividing by `n - 1`.

    Args:
      x: `[B, T]`, or any other shape.
      mask: The same shape.

    Returns:
      A scalar; 0 for fewer than two real tokens, where none is defined.

    Raises:
      ValueError: Shapes differ.
    """
    deviations = masked(masked(x, mask) - masked_mean(x, mask), mask)
    return (deviations**2).sum() / np.maximum(np.count_nonzero(mask) - 1, 1)


def whiten(x: ArrayLike, mask: ArrayLike, epsilon: float = 1e-8) -> Array:
    """Shift and scales to mean 0 and unbiased variance 1 over real tokens.

    Real tokens become `(x - mean) / sqrt(variance + epsilon)`.

    Args:
      x: `[B, T]`, or any other shape.
      mask: The same shape.
      epsilon: Keeps the divisor from 0; in the square of the unit of `x`.

    Returns:
      An array of that shape, 0 at masked positions, and 0 everywhere where fewer
      than two tokens are real.

    Raises:
      ValueError: Shapes differ.
    """
    centred = masked(x, mask) - masked_mean(x, mask)
    return masked(centred / np.sqrt(masked_variance(x, mask) + epsilon), mask)


def gae(
    rewards: ArrayLike, values: ArrayLike, mask: ArrayLike, gamma: float, gae_lambda: float
) -> tuple[Array, Array]:
    """Estimate advantages and returns, row by row.

    The temporal difference is `delta_t = r_t + gamma V_{t+1} - V_t` (section 3 of
    the paper), and the estimate `A_t = sum_l (gamma lambda)^l delta_{t+l}`
    (equation 16). The sum is taken from its end, `A_t = delta_t + gamma lambda
    A_{t+1}`. An episode ends with its row: behind the last real token there is
    no value and no advantage.

    Masked positions are no steps: `t + 1` is the next real token of the row, however
    many masked ones lie between.

    Args:
      rewards: `[B, T]`.
      values: `[B, T]`; `V_t` is the value of the state in which token `t` is
        chosen, in the unit of the rewards.
      mask: `[B, T]`.
      gamma: Discount in `[0, 1]`.
      gae_lambda: Weight of longer looks ahead, in `[0, 1]`.

    Returns:
      Advantages, not whitened, and returns `A_t + V_t`; both `[B, T]`, 0 at
      masked positions.

    Raises:
      ValueError: Shapes differ, or are not `[B, T]`.
    """
    reward_rows, value_rows = masked(rewards, mask), masked(values, mask)
    if reward_rows.ndim != 2:
        raise ValueError(f"rewards of shape {reward_rows.shape}: give [B, T]")
    advantages, returns = np.zeros_like(reward_rows), np.zeros_like(reward_rows)
    for row, real in enumerate(np.asarray(mask) != 0):
        next_value = next_advantage = 0.0
        for t in reversed(np.flatnonzero(real)):
            delta = reward_rows[row, t] + gamma * next_value - value_rows[row, t]
            advantages[row, t] = delta + gamma * gae_lambda * next_advantage
            returns[row, t] = advantages[row, t] + value_rows[row, t]
            next_value, next_advantage = value_rows[row, t], advantages[row, t]
    return advantages, returns
