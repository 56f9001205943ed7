"""Upstream's log-probs at the temperature at which completions were drawn."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
from tunix.rl import common

from harness.upstream import compat, hooks, rebind

_LOG_PROBS = inspect.unwrap(common.compute_per_token_logps)


def at_temperature(function: Callable[..., Any], temperature: float) -> Callable[..., Any]:
    """Return an upstream function whose log-probs are those of logits over a temperature.

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
    """Return upstream's log-probs with all logits over a temperature.

    Args:
      temperature: Above 0.

    Returns:
      A function with the arguments and results of
      `tunix.rl.common.compute_per_token_logps`; the logits that it returns are
      over the temperature too.
    """
    if compat.LOG_PROBS_TAKE_TEMPERATURE:
        return functools.partial(common.compute_per_token_logps, temperature=temperature)

    def log_probs(*args: Any, **kwargs: Any) -> Any:
        found = _programs.at(temperature)(*args, **kwargs)
        if not kwargs.get("return_logits"):
            return found
        chosen, logits = found
        return chosen, logits / temperature

    return log_probs


@contextlib.contextmanager
def replaced(change: Callable[[Any], Any]) -> Iterator[None]:
    """Let log-probs, for a while, be asked of something else than upstream's program.

    Args:
      change: Is given the program, and gives what is called in its place.

    Yields:
      Nothing.
    """

    def changed(program_at: Callable[[float], Any]) -> Callable[[float], Any]:
        return lambda temperature: change(program_at(temperature))

    with (
        hooks.LOG_PROBS_PROGRAM.wrapped(None, change),
        _PROGRAM_AT.wrapped(None, changed),
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


class _Programs:
    """Holds the function, so that it can be looked at where it is called."""

    def __init__(self) -> None:
        self.at: Callable[[float], Any] = _program_at


_programs = _Programs()
_PROGRAM_AT = hooks.Hook("the program of log-probs at a temperature", lambda of: _programs, "at")
