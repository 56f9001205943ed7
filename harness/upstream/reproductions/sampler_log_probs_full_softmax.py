"""The sampler's log-probs are not those of the distribution it drew from.

Expected: with top_k=1 the token is certain, so its log-prob is 0.
Got: the log-prob under the full softmax, without top-k and top-p (the temperature
is taken into account).
"""

import jax
import jax.numpy as jnp
from tunix.generate import sampler


def main() -> bool:
    """Gives whether the defect shows."""
    logits = jnp.array([[[2.0, 1.0, 0.0]]])
    token, log_prob = sampler.sample_top_p(
        logits, jax.random.key(0), temperature=1.0, top_p=1.0, top_k=1, return_logprobs=True
    )
    assert log_prob is not None
    print(f"expected: log-prob 0.0 of token {int(token[0])}, the only one that top_k=1 leaves")
    print(f"got: {float(log_prob[0]):.4f}")
    return int(token[0]) == 0 and float(log_prob[0]) < -0.1


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
