"""Log-probabilities of tokens, the entropy of their distributions, and gradients.

A policy over logits `z` at temperature `T` is the softmax of `z / T`. A logit of
minus infinity stands for a token that cannot be drawn.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def log_softmax(logits: ArrayLike) -> Array:
    """Return `z - log(sum(exp(z)))` over the last axis.

    Args:
      logits: `[..., V]`, finite or minus infinity, at least one of each row
        finite.

    Returns:
      `[..., V]` natural-log probabilities; minus infinity where the logit is.
    """
    z = np.asarray(logits, np.float64)
    # The largest is taken off first, so that no exponential overflows.
    shifted = z - z.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def token_log_probs(logits: ArrayLike, ids: ArrayLike, temperature: float = 1.0) -> Array:
    """Return the log-probability of each token under its own logits.

    Args:
      logits: `[..., T, V]`; row `t` is the prediction *of* token `t`, so a
        model's outputs are shifted by one before they come here.
      ids: `[..., T]` integers in `[0, V)`.
      temperature: Positive divisor of the logits.

    Returns:
      `[..., T]` in nats.

    Raises:
      ValueError: An id lies outside the vocabulary, shapes do not fit, or the
        temperature is not positive.
    """
    log_probs = log_softmax(_tempered(logits, temperature))
    chosen = _checked_ids(ids, log_probs.shape)
    return np.take_along_axis(log_probs, chosen[..., None], axis=-1)[..., 0]


def token_log_probs_gradient(logits: ArrayLike, ids: ArrayLike, temperature: float = 1.0) -> Array:
    """Return the derivative of each token's log-probability by its own logits.

    With `p = softmax(z / T)` it is `(onehot(id) - p) / T`; the log-probability
    of token `t` does not depend on the logits of any other token.

    Args:
      logits: `[..., T, V]`, as for `token_log_probs`.
      ids: `[..., T]` integers in `[0, V)`.
      temperature: Positive divisor of the logits.

    Returns:
      `[..., T, V]`; each row sums to 0.

    Raises:
      ValueError: As for `token_log_probs`.
    """
    probs = np.exp(log_softmax(_tempered(logits, temperature)))
    chosen = _checked_ids(ids, probs.shape)
    onehot = chosen[..., None] == np.arange(probs.shape[-1])
    return (onehot - probs) / temperature


def entropy(logits: ArrayLike, temperature: float = 1.0) -> Array:
    """Return Shannon's entropy `-sum(p log p)` of `p = softmax(z / T)`.

    A token that cannot be drawn adds nothing: `p log p` goes to 0 with `p`.

    Args:
      logits: `[..., V]`, finite or minus infinity.
      temperature: Positive divisor of the logits.

    Returns:
      `[...]` in nats, between 0 and `log(V)`.

    Raises:
      ValueError: The temperature is not positive.
    """
    log_probs = log_softmax(_tempered(logits, temperature))
    return -(np.exp(log_probs) * _finite(log_probs)).sum(axis=-1)


def entropy_gradient(logits: ArrayLike, temperature: float = 1.0) -> Array:
    """Return the derivative of the entropy by the logits.

    From `dp_k/dz_j = p_k (1[k = j] - p_j) / T` follows
    `dH/dz_j = -p_j (log p_j + H) / T`.

    Args:
      logits: `[..., V]`, finite or minus infinity.
      temperature: Positive divisor of the logits.

    Returns:
      `[..., V]`; each row sums to 0, and is 0 where a logit is minus infinity.

    Raises:
      ValueError: The temperature is not positive.
    """
    log_probs = log_softmax(_tempered(logits, temperature))
    expected = entropy(logits, temperature)[..., None]
    return -np.exp(log_probs) * (_finite(log_probs) + expected) / temperature


def _tempered(logits: ArrayLike, temperature: float) -> Array:
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}: give a positive one")
    return np.asarray(logits, np.float64) / temperature


def _checked_ids(ids: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.integer]:
    chosen = np.asarray(ids)
    if chosen.shape != shape[:-1]:
        raise ValueError(f"ids of shape {chosen.shape} do not fit logits of shape {shape}")
    # NumPy would count a negative id from the end of the vocabulary.
    if ((chosen < 0) | (chosen >= shape[-1])).any():
        raise ValueError(f"ids must lie in [0, {shape[-1]})")
    return chosen


def _finite(log_probs: Array) -> Array:
    return np.where(np.isneginf(log_probs), 0.0, log_probs)
