"""Upstream's log-probs at the temperature at which completions were drawn."""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
from tunix.rl import common

from harness.upstream import rebind, versions

_LOG_PROBS = inspect.unwrap(common.compute_per_token_logps)


def at_temperature(function: Callable[..., Any], temperature: float) -> Callable[..., Any]:
    """Gives an upstream function whose log-probs are those of logits over a temperature.

    Args:
      function: It asks `tunix.rl.common.compute_per_token_logps`.
      temperature: Above 0.

    Returns:
      The function, with upstream's own left alone.
    """
    return rebind.rebind(
        function,
        common=rebind.Overlay(common, compute_per_token_logps=log_probs_at(temperature)),
    )


def log_probs_at(temperature: float) -> Callable[..., Any]:
    """Gives upstream's log-probs with all logits over a temperature.

    Args:
      temperature: Above 0.

    Returns:
      A function with the arguments and results of
      `tunix.rl.common.compute_per_token_logps`; the logits that it returns are
      over the temperature too.
    """
    if versions.LOG_PROBS_TAKE_TEMPERATURE:
        return functools.partial(common.compute_per_token_logps, temperature=temperature)

    def log_probs(*args: Any, **kwargs: Any) -> Any:
        found = _program_at(temperature)(*args, **kwargs)
        if not kwargs.get("return_logits"):
            return found
        chosen, logits = found
        return chosen, logits / temperature

    return log_probs


@contextlib.contextmanager
def replaced(change: Callable[[Any], Any]) -> Iterator[None]:
    """Lets log-probs, for a while, be asked of something else than upstream's program.

    Args:
      change: Is given the program, and gives what is called in its place.

    Yields:
      Nothing.
    """
    program_at = _program_at
    with (
        mock.patch.object(
            common, "compute_per_token_logps", change(common.compute_per_token_logps)
        ),
        mock.patch.object(
            sys.modules[__name__],
            "_program_at",
            lambda temperature: change(program_at(temperature)),
        ),
    ):
        yield


@functools.cache  # one program for a temperature, as upstream's own is one
def _program_at(temperature: float) -> Callable[..., Any]:
    def cooled(logits: jax.Array, ids: jax.Array) -> jax.Array:
        return common.selective_log_softmax(logits / temperature, ids)

    return jax.jit(
        rebind.rebind(_LOG_PROBS, selective_log_softmax=cooled),
        static_argnames=("pad_id", "eos_id", "stop_gradient", "return_logits"),
    )
