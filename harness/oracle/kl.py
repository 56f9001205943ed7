"""Estimates of the KL divergence from one sampled token.

Source: Schulman, "Approximating KL Divergence" (2020, joschu.net/blog/kl-approx).
For tokens drawn from the policy `q`, with `r = p / q` and `p` the reference, all
three estimate `KL(q, p)`. Each goes by its configured name:

| here          | Schulman | per token         | expectation under `q`  |
| ------------- | -------- | ----------------- | ---------------------- |
| `kl`          | k1       | `-log r`          | the KL; may be negative |
| `mse_kl`      | k2       | `(log r)^2 / 2`   | near the KL, not it    |
| `low_var_kl`  | k3       | `(r - 1) - log r` | the KL; never negative |
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

ESTIMATORS = ("kl", "mse_kl", "low_var_kl")


def kl(log_probs: ArrayLike, reference_log_probs: ArrayLike, estimator: str) -> NDArray[np.float64]:
    """Estimate the divergence of the policy from the reference at each token.

    Args:
      log_probs: `[B, T]` of the policy that drew the tokens, in nats.
      reference_log_probs: `[B, T]` of the same tokens under the reference.
      estimator: One of `ESTIMATORS`.

    Returns:
      `[B, T]` in nats. Nothing is masked: each position depends on itself alone.

    Raises:
      ValueError: No such estimator, or shapes differ.
    """
    policy = np.asarray(log_probs, np.float64)
    reference = np.asarray(reference_log_probs, np.float64)
    if policy.shape != reference.shape:
        raise ValueError(f"log-probs of shapes {policy.shape} and {reference.shape} differ")
    log_ratio = reference - policy
    match estimator:
        case "kl":
            return -log_ratio
        case "mse_kl":
            return log_ratio**2 / 2
        case "low_var_kl":
            # Near r = 1 the ones of `exp(x) - 1 - x` would cancel what is looked for.
            return np.expm1(log_ratio) - log_ratio
    raise ValueError(f"estimator '{estimator}': use one of {', '.join(ESTIMATORS)}")
