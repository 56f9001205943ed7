"""Keys of upstream's noise."""

import jax
import numpy as np

# One dispatch in place of the dozen that it takes outside of a program.
_fold_in = jax.jit(jax.random.fold_in)


def fold_in(key: jax.Array, number: int) -> jax.Array:
    """Derive a key from a key and a number.

    Args:
      key: A key.
      number: From 0; counted modulo 2**32.

    Returns:
      What `jax.random.fold_in` gives.
    """
    return _fold_in(key, np.uint32(number % 2**32))
