"""The distribution that sampled tokens follow, and a test of draws against it."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def distribution(
    logits: ArrayLike,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    forbidden: Sequence[int] = (),
) -> np.ndarray:
    """Probabilities from which a token is drawn.

    In this order: forbidden tokens leave; logits are divided by the temperature;
    the `top_k` likeliest stay (Fan et al., arXiv:1805.04833); of
    these, renormalised, the nucleus stays (Holtzman et al., arXiv:1904.09751,
    eq. 2 and 3): the smallest set of likeliest tokens whose mass reaches
    `top_p`, so that the token that crosses the bound is kept. Among equally
    likely tokens, lower ids stay first.

    Args:
      logits: [..., V] logits; minus infinity is a token of no probability.
      temperature: Divisor of the logits; 0 is greedy: all mass on the
        likeliest token, on the lowest id of several.
      top_k: Number of tokens kept; none or 0 keeps all.
      top_p: Mass of the nucleus; none, 1 or more keeps all.
      forbidden: Ids that are never drawn.

    Returns:
      [..., V] probabilities, float64; each row sums to 1.

    Raises:
      ValueError: `temperature` or `top_k` is negative, `top_p` is not positive,
        a forbidden id is outside the vocabulary, a logit is NaN or plus
        infinity, or a row has no token left.
    """
    logits = np.array(logits, np.float64)
    vocabulary = logits.shape[-1]
    if not temperature >= 0:
        raise ValueError("temperature must not be negative")
    if top_k is not None and top_k < 0:
        raise ValueError("top_k must not be negative")
    if top_p is not None and not top_p > 0:
        raise ValueError("top_p must be positive")
    if any(not 0 <= token < vocabulary for token in forbidden):
        raise ValueError("a forbidden id is outside the vocabulary")
    if np.any(np.isnan(logits) | (logits == np.inf)):
        raise ValueError("logits must not be NaN or plus infinity")
    logits[..., list(forbidden)] = -np.inf
    peak = logits.max(axis=-1, keepdims=True)
    if np.any(np.isneginf(peak)):
        raise ValueError("a row has no token left")
    if temperature == 0:
        return np.eye(vocabulary)[logits.argmax(axis=-1)]
    # Shifted before the division: a tiny temperature then overflows to exp(-inf) = 0 only.
    with np.errstate(over="ignore"):
        weights = np.exp((logits - peak) / temperature)
    # By logits, not by weights: tokens whose weights underflow to 0 keep their order.
    order = np.argsort(-logits, axis=-1, kind="stable")
    ranked = np.take_along_axis(weights, order, axis=-1)
    if top_k:
        ranked[..., top_k:] = 0.0
    ranked /= ranked.sum(axis=-1, keepdims=True)
    if top_p is not None and top_p < 1:
        mass_before = np.zeros_like(ranked)
        mass_before[..., 1:] = np.cumsum(ranked, axis=-1)[..., :-1]
        ranked = np.where(mass_before < top_p, ranked, 0.0)
        ranked /= ranked.sum(axis=-1, keepdims=True)
    probabilities = np.empty_like(ranked)
    np.put_along_axis(probabilities, order, ranked, axis=-1)
    return probabilities


def chi_square(
    counts: ArrayLike, probabilities: ArrayLike, min_expected: float = 5.0
) -> tuple[float, int]:
    """Pearson's statistic of counts against a distribution (Pearson 1900).

    Cells that expect fewer than `min_expected` draws are pooled into one, and
    if that is still too rare, it joins the rarest of the others: the
    statistic follows its limit only where expectations are not small.

    Args:
      counts: [V] draws of each token.
      probabilities: [V] their probabilities, summing to 1.
      min_expected: Expected draws below which a cell is pooled.

    Returns:
      The statistic, infinite if a token of probability 0 was drawn; and its
      degrees of freedom, 0 if a single cell is left.

    Raises:
      ValueError: Shapes differ, nothing was drawn, a count or a probability is
        negative, or the probabilities do not sum to 1.
    """
    counts, probabilities = np.asarray(counts, np.float64), np.asarray(probabilities, np.float64)
    if counts.ndim != 1 or counts.shape != probabilities.shape:
        raise ValueError("counts and probabilities must be [V]")
    if np.any(counts < 0) or np.any(probabilities < 0):
        raise ValueError("counts and probabilities must not be negative")
    if not counts.sum() > 0:
        raise ValueError("nothing was drawn")
    # Room for the rounding of probabilities that were worked out in float32.
    if not abs(probabilities.sum() - 1.0) < 1e-5:
        raise ValueError("probabilities must sum to 1")
    possible = probabilities > 0
    impossible_drawn = bool(counts[~possible].any())
    expected = probabilities[possible] * counts.sum()
    observed = counts[possible]
    order = np.argsort(expected, kind="stable")
    expected, observed = expected[order], observed[order]
    rare = int(np.sum(expected < min_expected))
    if rare and expected[:rare].sum() < min_expected:
        rare = min(rare + 1, expected.size)
    if rare:
        expected = np.concatenate([[expected[:rare].sum()], expected[rare:]])
        observed = np.concatenate([[observed[:rare].sum()], observed[rare:]])
    degrees = expected.size - 1
    if impossible_drawn:
        return math.inf, degrees
    if not degrees:
        return 0.0, 0
    return float(np.sum((observed - expected) ** 2 / expected)), degrees
