"""Modules that compute in one dtype on parameters of another, and optimizers that do so.

Flax has `dtype` beside `param_dtype`, layer by layer; Tunix's Gemma 3 has the latter alone, and
computes in whatever its operands promote to.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx

_M = TypeVar("_M", bound=nnx.Module)


def compute_in(module: _M, dtype: Any) -> _M:
    """Make a module cast its parameters whenever it is called.

    Gradients flow through the cast to the parameters that are stored. A module whose parameters
    all have the dtype is left as it is.

    Args:
      module: With arrays or with shapes; changed in place, its class too.
      dtype: What it computes in.

    Returns:
      `module`.
    """
    dtype = jnp.dtype(dtype)
    if all(leaf.dtype == dtype for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))):
        return module
    plain: Any = type(module)
    casting = {"__call__": _casting(plain.__call__)}
    module.__class__ = type(plain.__name__, (plain,), casting)
    module.computation_dtype = dtype.name  # type: ignore[attr-defined]
    return module


def cast(tree: Any, dtype: Any) -> Any:
    """Return a tree whose floating leaves have a dtype; those that have it are the same objects.

    Args:
      tree: Of arrays, or of `jax.ShapeDtypeStruct`s.
      dtype: The dtype.

    Returns:
      A tree of the same structure, laid over the same devices.
    """
    dtype = jnp.dtype(dtype)

    def converted(leaf: Any) -> Any:
        if leaf.dtype == dtype or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
        return leaf.astype(dtype)

    return jax.tree.map(converted, tree)


def stored_in(module: nnx.Module, dtype: Any) -> Any:
    """Return a copy of a module whose parameters have a dtype, and that computes in it.

    Args:
      module: With arrays or with shapes.
      dtype: The dtype.

    Returns:
      The copy; parameters that have the dtype are shared.
    """
    graph, state = nnx.split(module)
    copy: Any = nnx.merge(graph, cast(state, dtype))
    if hasattr(copy, "computation_dtype"):
        copy.computation_dtype = None
    return copy


def with_moments_in(
    optimizer: optax.GradientTransformation, dtype: Any
) -> optax.GradientTransformation:
    """Store an optimizer's moments in a dtype, and compute in float32.

    Args:
      optimizer: Its state's floating arrays are moments.
      dtype: The dtype; optax by itself stores the second moment in that of the parameters.

    Returns:
      An optimizer with the same state, whose updates are float32.
    """

    def init(params: Any) -> Any:
        # Moments begin at zero: made in the dtype at once, there is no larger state to convert.
        return optimizer.init(cast(params, dtype))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        gradients, state, params = cast((updates, state, params), jnp.float32)
        updates, state = optimizer.update(gradients, state, params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(init, update)


def _casting(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)  # upstream looks at the names of the arguments
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.computation_dtype is None:
            return call(self, *args, **kwargs)
        copy = stored_in(self, self.computation_dtype)
        result = call(copy, *args, **kwargs)
        for name, value in vars(copy).items():
            if isinstance(value, nnx.Intermediate):
                setattr(self, name, value)
        return result

    return __call__
