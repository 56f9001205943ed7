"""Gives an upstream function other names to look up, without touching upstream."""

import types
from collections.abc import Callable
from typing import Any


def rebind(function: Callable[..., Any], **names: Any) -> Any:
    """Copy a function so that it sees other objects under some global names.

    A fix made so runs upstream's own code, as it is installed, with one name
    looked up elsewhere; no line is copied, and the original is left alone.

    Args:
      function: A plain function, or a method looked up on its class.
      **names: Global names of the function, and what they are to mean.

    Returns:
      The copy.

    Raises:
      AttributeError: The function's module has no such global, so that a fix
        which no longer fits fails instead of doing nothing.
    """
    for name in names:
        if name not in function.__globals__:
            raise AttributeError(f"{function.__qualname__} does not look up '{name}'")
    copy = types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__doc__ = function.__doc__
    copy.__qualname__ = function.__qualname__
    return copy


class Overlay:
    """A module in which some names mean something else."""

    def __init__(self, module: types.ModuleType, **names: Any):
        """Lay `names` over `module`."""
        for name in names:
            getattr(module, name)  # a name that upstream dropped must not pass unnoticed
        self._module = module
        self._names = names

    def __getattr__(self, name: str) -> Any:
        """Look a name up among the overlaid ones, then in the module."""
        names = object.__getattribute__(self, "_names")
        return names[name] if name in names else getattr(self._module, name)
