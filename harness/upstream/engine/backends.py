"""Where the figures of training go: to the backends that the recipe names, and to no other.

Tunix writes to TensorBoard, and to Weights & Biases too wherever that package
can be imported: it then ends a run that has no key, or sends out the figures of
one that has. Here each backend is made by a factory of its own, which Tunix
takes in place of its defaults.
"""

import dataclasses
import functools
import importlib
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tunix.sft import metrics_logger

from harness import errors, network
from harness import recipe as recipe_lib

_WANDB = "Weights & Biases"
_OUT = "leave wandb out of metrics.backends"
_OFFLINE = ("offline", "disabled", "dryrun")
_FLUSH_EVERY_STEPS = 20


def check(recipe: recipe_lib.Recipe) -> None:
    """Refuse a recipe whose metrics backends cannot start, before anything is run.

    Args:
      recipe: Names the backends.

    Raises:
      HarnessError: A package is not installed, it has no key, or its server
        cannot be reached.
    """
    if "wandb" not in recipe.metrics.backends:
        return
    wandb = _import_wandb()
    if os.environ.get("WANDB_MODE", "").lower() in _OFFLINE:
        return
    address = os.environ.get("WANDB_BASE_URL") or getattr(wandb.Settings(), "base_url", None)
    reason = network.unreachable(str(address)) if address else None
    if reason:
        raise errors.HarnessError(
            f"{_WANDB} cannot be reached ({reason}): check the network, set WANDB_MODE=offline, "
            f"or {_OUT}"
        )
    try:
        present = wandb.login(prompt=False)
    except TypeError:  # a release without the option, which would ask on the terminal
        present = True
    except Exception as error:
        raise _cannot_start(error) from None
    if not present:
        raise errors.HarnessError(
            f"{_WANDB} has no API key: set WANDB_API_KEY, set WANDB_MODE=offline, or {_OUT}"
        )


def logger_options(
    recipe: recipe_lib.Recipe, directory: pathlib.Path, run: str | None = None
) -> metrics_logger.MetricsLoggerOptions | None:
    """Return upstream's logging options with exactly the backends of the recipe.

    Args:
      recipe: `metrics`, and what a backend records of the run.
      directory: The run's folder.
      run: Id of the run, under which a backend groups what several processes
        of it log.

    Returns:
      The options; `None` if the recipe names no backend.
    """
    folder = str(directory / "tensorboard")
    makers: Mapping[str, Callable[[], Any]] = {
        "tensorboard": functools.partial(
            metrics_logger.TensorboardBackend,
            log_dir=folder,
            flush_every_n_steps=_FLUSH_EVERY_STEPS,
        ),
        "wandb": functools.partial(WandbBackend, recipe, directory, run),
    }
    factories = [makers[name] for name in recipe.metrics.backends]
    if not factories:
        return None
    return metrics_logger.MetricsLoggerOptions(
        log_dir=folder, flush_every_n_steps=_FLUSH_EVERY_STEPS, **_in_place_of_defaults(factories)
    )


def _in_place_of_defaults(factories: list[Callable[[], Any]]) -> dict[str, Any]:
    """Return the argument by which this release of Tunix takes backends in place of its own."""
    names = {field.name for field in dataclasses.fields(metrics_logger.MetricsLoggerOptions)}
    if "backend_factories" in names:  # 0.1.6
        return {"backend_factories": factories}
    return {"backend_kwargs": {"custom_backend": factories}}


class WandbBackend:
    """Logs to a run of Weights & Biases.

    Figures of the actor count optimizer steps, those of rewards global steps,
    and W&B has one step for all, which must not go back. So each figure is
    logged beside the step of its own group, which is the axis of its chart.
    """

    def __init__(self, recipe: recipe_lib.Recipe, directory: pathlib.Path, run: str | None):
        """Start a run.

        A run that another process goes on with is a new one in the same group;
        it begins with all that was logged before.

        Args:
          recipe: `metrics`; all of it is recorded as the run's configuration.
          directory: The run's folder, which gives the name if the recipe does not.
          run: Id of the run, its group there.

        Raises:
          HarnessError: It cannot be started.
        """
        wandb = _import_wandb()
        try:
            self._run: Any = wandb.init(
                project=recipe.metrics.project,
                name=recipe.metrics.run_name or directory.name,
                group=run,
                dir=str(directory),
                config=recipe_lib.to_dict(recipe),
            )
        except Exception as error:  # W&B raises errors of its own, and its transport's
            raise _cannot_start(error) from None
        self._groups: set[str] = set()

    def log_scalar(self, event: str, value: float | np.ndarray, **options: Any) -> None:
        """Log one figure.

        Args:
          event: `group/mode/name`.
          value: A scalar.
          **options: `step` among them; what JAX itself reports has none and is
            left out.
        """
        step = options.get("step")
        if self._run is None or step is None or np.size(value) != 1:
            return
        event = event.lstrip("/")
        group = event.partition("/")[0]
        axis = f"{group}/step"
        try:
            if group not in self._groups:
                self._groups.add(group)
                self._run.define_metric(axis, hidden=True)
                self._run.define_metric(f"{group}/*", step_metric=axis)
            self._run.log({event: float(np.asarray(value).reshape(())), axis: int(step)})
        except Exception as error:
            self._run = None
            # A run of hours does not end for a chart.
            warnings.warn(
                f"{_WANDB} takes no more figures ({_reason(error)}); training goes on without it",
                stacklevel=2,
            )

    def close(self) -> None:
        """End the run."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()


def _import_wandb() -> Any:
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise errors.HarnessError(
            f"metrics.backends names wandb, which is not installed: pip install wandb, or {_OUT}"
        ) from None


def _cannot_start(error: Exception) -> errors.HarnessError:
    return errors.HarnessError(
        f"{_WANDB} cannot be started ({_reason(error)}): set WANDB_API_KEY, set "
        f"WANDB_MODE=offline, or {_OUT}"
    )


def _reason(error: Exception) -> str:
    """Return the first line of an error, without the key if it is quoted there."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "...") if key else text
