"""From sampled ids to rows, masks, positions and rewards.

Shapes: B sequences, T completion positions, L positions of a whole row.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike

from harness.oracle.kl import kl


def cut_after_end(ids: Sequence[int] | np.ndarray, end_ids: Collection[int]) -> np.ndarray:
    """The completion in a row of sampled ids.

    The stop token is an action of the policy like any other, so it belongs to
    the completion; what the buffer holds after it does not.

    Args:
      ids: Sampled ids in order.
      end_ids: Ids any of which ends a completion.

    Returns:
      Ids up to the first stop token, that token included; all ids if none ends.
    """
    row = np.asarray(ids, np.int64)
    ends = np.flatnonzero(np.isin(row, list(end_ids)))
    return row[: ends[0] + 1] if ends.size else row.copy()


def pad_right(rows: Sequence[Sequence[int] | np.ndarray], length: int, pad: int) -> np.ndarray:
    """Rows of one length, filled up behind.

    Args:
      rows: B rows of ids.
      length: Length of the result.
      pad: Id that fills.

    Returns:
      [B, length] int64.

    Raises:
      ValueError: A row is longer than `length`.
    """
    padded = np.full((len(rows), length), pad, np.int64)
    for i, row in enumerate(rows):
        _check_fits(row, length)
        padded[i, : len(row)] = row
    return padded


def pad_left(rows: Sequence[Sequence[int] | np.ndarray], length: int, pad: int) -> np.ndarray:
    """Rows of one length, filled up in front.

    Args:
      rows: B rows of ids.
      length: Length of the result.
      pad: Id that fills.

    Returns:
      [B, length] int64.

    Raises:
      ValueError: A row is longer than `length`.
    """
    padded = np.full((len(rows), length), pad, np.int64)
    for i, row in enumerate(rows):
        _check_fits(row, length)
        padded[i, length - len(row) :] = row
    return padded


def completion_mask(lengths: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """Which positions of right-padded completions are real.

    It is made from lengths, not from ids: a policy may well emit the pad id.

    Args:
      lengths: [B] tokens of each completion, its stop token included.
      length: T.

    Returns:
      [B, T] bool.

    Raises:
      ValueError: A completion is longer than T or has a negative length.
    """
    counts = np.asarray(lengths, np.int64)
    if np.any(counts < 0) or np.any(counts > length):
        raise ValueError(f"lengths must lie between 0 and {length}")
    return np.arange(length) < counts[:, None]


def place_reward(scores: ArrayLike, mask: ArrayLike) -> np.ndarray:
    """Token rewards of a score that judges the whole completion.

    Args:
      scores: [B] score of each completion.
      mask: [B, T] true at real tokens.

    Returns:
      [B, T] float64, the score at the last real token and 0 elsewhere.

    Raises:
      ValueError: Shapes differ, or a row has no real token: where its score
        belongs is undefined.
    """
    scores, mask = np.asarray(scores, np.float64), np.asarray(mask, bool)
    if mask.ndim != 2 or scores.shape != mask.shape[:1]:
        raise ValueError("scores must be [B] and mask [B, T]")
    empty = np.flatnonzero(~mask.any(axis=1))
    if empty.size:
        raise ValueError(f"rows {empty.tolist()} have no real token to carry a score")
    rewards = np.zeros(mask.shape)
    for row, score in enumerate(scores):
        rewards[row, np.flatnonzero(mask[row])[-1]] = score
    return rewards


def token_rewards(
    scores: ArrayLike,
    mask: ArrayLike,
    log_probs: ArrayLike,
    reference_log_probs: ArrayLike | None,
    beta: float,
    estimator: str,
) -> np.ndarray:
    """Token rewards with a penalty for leaving the reference.

    The score less beta times the divergence, which is charged token by token
    (Ziegler et al., arXiv:1909.08593, eq. 2; Ouyang et al., arXiv:2203.02155,
    eq. 2). There the estimator is the difference of log-probs, `kl`.

    Args:
      scores: [B] score of each completion.
      mask: [B, T] true at real tokens.
      log_probs: [B, T] of the policy that sampled.
      reference_log_probs: [B, T] of the reference; none only where beta is 0.
      beta: Weight of the penalty.
      estimator: `kl`, `mse_kl` or `low_var_kl`.

    Returns:
      [B, T] float64, 0 at positions that are not real, whatever is stored there.

    Raises:
      ValueError: As `place_reward`, or shapes differ, or the reference is
        missing, or the estimator is unknown.
    """
    rewards = place_reward(scores, mask)
    if beta == 0:
        return rewards
    if reference_log_probs is None:
        raise ValueError("a beta other than 0 needs reference_log_probs")
    mask = np.asarray(mask, bool)
    policy = np.asarray(log_probs, np.float64)
    reference = np.asarray(reference_log_probs, np.float64)
    if policy.shape != mask.shape or reference.shape != mask.shape:
        raise ValueError("log_probs and reference_log_probs must be of the mask's shape")
    # Padding may hold NaN, which a product with 0 would let through; and where
    # log-probs are equal, every estimate is 0.
    divergence = kl(np.where(mask, policy, 0.0), np.where(mask, reference, 0.0), estimator)
    return rewards - beta * divergence


def positions(mask: ArrayLike) -> np.ndarray:
    """Position of each token, counted from 0 among the real tokens of its row.

    Args:
      mask: [B, L] true at real tokens.

    Returns:
      [B, L] int64; padding has the position of the real token before it, and
      0 if there is none.
    """
    counts = np.cumsum(np.asarray(mask, bool), axis=-1, dtype=np.int64)
    return np.maximum(counts - 1, 0)


def causal_mask(mask: ArrayLike) -> np.ndarray:
    """Which keys each query may look at.

    Args:
      mask: [B, L] true at real tokens.

    Returns:
      [B, L, L] bool, true at [b, i, j] where j is real and not after i.
    """
    mask = np.asarray(mask, bool)
    length = mask.shape[-1]
    return np.tri(length, dtype=bool)[None] & mask[:, None, :]


def _check_fits(row: Sequence[int] | np.ndarray, length: int) -> None:
    if len(row) > length:
        raise ValueError(f"a row of {len(row)} ids does not fit {length} positions")
