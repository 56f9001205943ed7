"""Dtypes of what a trainer adds up, and what Tunix as installed has no setting for."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import optax

from harness import errors
from harness import recipe as recipe_lib
from harness.upstream import hooks, rebind


@contextlib.contextmanager
def accumulating_in(dtype: recipe_lib.Dtype) -> Iterator[None]:
    """Let trainers that are built in the block add up gradients in a dtype.

    Args:
      dtype: The dtype; Tunix leaves it at optax's float32.

    Yields:
      Nothing.
    """
    if dtype == "float32":
        yield
        return

    def multi_steps(*args: Any, **kwargs: Any) -> optax.MultiSteps:
        return optax.MultiSteps(*args, **kwargs, accumulator_dtype=jnp.dtype(dtype))

    overlay = rebind.Overlay(optax, MultiSteps=multi_steps)
    with hooks.TRAINER_OPTAX.wrapped(None, lambda plain: overlay):
        yield


def check_stock(recipe: recipe_lib.Recipe) -> None:
    """Refuse what Tunix as installed has no setting for.

    Args:
      recipe: The recipe of a run without fixes.

    Raises:
      HarnessError: A field would have no effect; the message names it.
    """
    asked = {
        "rollout.dtype": recipe.rollout.dtype is not None,
        "precision.accumulators": recipe.precision.accumulators_dtype != "float32",
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise errors.HarnessError(
                f"{name} has no effect on Tunix as installed: use --upstream patched, or leave "
                f"{name} at none"
            )
