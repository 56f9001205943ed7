"""A masked token makes the policy's gradient NaN while the loss stays finite.

Expected: an old log-prob of -1e6 at a masked position changes neither loss nor gradient.
Got: a finite loss and a NaN gradient. The ratio overflows to infinity before the
mask is applied; in the backward pass 0 times infinity is NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from harness.upstream.fixes._prelude import Table, padded_example, policy_loss
from harness.upstream.fixes._probing import loss_of_log_probs
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether an old log-prob of -1e6 under the mask makes the gradient NaN."""
    old = jnp.array([[0.0, -1e6]])
    mask = jnp.array([[True, False]])
    gradient = jax.grad(loss_of_log_probs)(jnp.zeros((1, 2)), jnp.ones((1, 2)), mask, old)
    return not bool(jnp.isfinite(gradient).all())


ISSUE = KnownIssue(
    id="masked-gradient-nan",
    title="A log-prob at a masked position can make the gradient NaN.",
    where="tunix/rl/algo_core.py:214",
    effect="The ratio overflows there; the loss is finite and the next weights are NaN.",
    fix="Masked positions are set to 0 before the loss.",
    probe=probe,
    shown_by=("masked-garbage-does-not-count",),
    fixed_with="masked-nan-leaks",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    (loss, _), gradient = nnx.value_and_grad(policy_loss, has_aux=True)(
        Table(jnp.zeros((8, 8))), padded_example(-1e6)
    )
    norm = jnp.linalg.norm(gradient["table"][...])
    print("expected: a finite loss and a finite gradient norm")
    print(f"got: loss {float(loss):.4f}, gradient norm {float(norm)}")
    return bool(np.isfinite(loss) and np.isnan(norm))
