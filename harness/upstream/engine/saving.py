"""Checkpoints that are written without a second copy of the models in the host's memory.

Orbax copies everything that it saves before it writes the first byte, compresses all of it at
once, and leaves the freed pages with the allocator. A critic with its moments is three times the
model: 0.84 GiB of bfloat16 saved so grew a process by 0.8 GiB, and by 1.05 at the second save;
with the bound below by 0.27 GiB, and by nothing once freed pages were given back (CPU, measured).
"""

import contextlib
import functools
import math
from collections.abc import Iterator

import jax
from flax import nnx
from orbax import checkpoint as ocp

from harness.upstream import hooks, rebind

# Bytes of arrays on their way to the disk at one time; an array is never cut, so the largest
# must fit.
CONCURRENT_GB = 1
_FLOAT32 = 4


@contextlib.contextmanager
def bounded(*models: nnx.Module) -> Iterator[None]:
    """Let checkpoint managers that are built in the block bound what is written at one time.

    Args:
      *models: What will be saved, with its optimizers; weights or shapes.

    Yields:
      Nothing.
    """
    handler = functools.partial(
        ocp.PyTreeCheckpointHandler, save_concurrent_gb=concurrent_gb(*models)
    )
    overlay = rebind.Overlay(ocp, PyTreeCheckpointHandler=handler)  # type: ignore[arg-type]
    with hooks.CHECKPOINT_ORBAX.wrapped(None, lambda ocp: overlay):
        yield


def concurrent_gb(*models: nnx.Module) -> int:
    """Return the gigabytes that may be written at one time: one, or the largest array's."""
    sizes = [leaf.size for model in models for leaf in jax.tree.leaves(nnx.state(model))]
    # An accumulator is float32, whatever it accumulates.
    return max(CONCURRENT_GB, math.ceil(max(sizes, default=0) * _FLOAT32 / 10**9))
