"""What differs between the releases of Tunix that the harness supports.

Each difference is asked of the installed Tunix, not of its version, so that a
release in between, or a patched one, is met as it is.
"""

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from tunix.generate import sampler as sampler_lib
from tunix.rl import common
from tunix.rl.ppo import ppo_learner
from tunix.sft import progress_bar


def _algorithms() -> Any:
    """Find the module of masked means, whitening and GAE, which moved in 0.1.7."""
    try:
        return importlib.import_module("tunix.rl.algo_core")
    except ImportError:
        return importlib.import_module("tunix.rl.ppo.ppo_helpers")


algorithms: Any = _algorithms()
_SHARED_ALGORITHMS = algorithms.__name__.endswith("algo_core")

# What the critic's loss reports beside itself; 0.1.7 added two.
VALUE_FIGURES = ("vpred_mean", "vf_clipfrac") + (
    ("vf_loss", "return_mean") if _SHARED_ALGORITHMS else ()
)

# Whether the policy's loss reports the lower clip fraction without dual clipping too.
REPORTS_UNUSED_LOWER_CLIP = _SHARED_ALGORITHMS

# The name under which the sampler looks for the end of a completion.
FIND_END = (
    "np_find_first_eos_idx"
    if "np_find_first_eos_idx" in sampler_lib.Sampler.__call__.__code__.co_names
    else "find_first_eos_idx"
)

# Whether upstream's log-probs can be asked for at a temperature, from 0.1.7.
LOG_PROBS_TAKE_TEMPERATURE = (
    "temperature" in inspect.signature(common.compute_per_token_logps).parameters
)


def policy_loss_fn() -> Callable[..., Any]:
    """Return upstream's PPO policy loss, a plain function of model, example and numbers."""
    return ppo_learner.registry.get("policy_loss_fn", "ppo")


def numbers_of(config: Any) -> dict[str, Any]:
    """Return the arguments by which the policy loss receives the algorithm's numbers.

    Args:
      config: Upstream's configuration of the algorithm.

    Returns:
      Arguments by name: the configuration itself from 0.1.7, its fields before.
    """
    names = inspect.signature(policy_loss_fn()).parameters
    if "algo_config" in names:
        return {"algo_config": config}
    fields = ("epsilon_low", "epsilon_high", "epsilon_c", "entropy_coef")
    return {name: getattr(config, name) for name in fields}


def sampling_state(**fields: Any) -> Any:
    """Build the sampler's state, without the fields that this release lacks.

    Args:
      **fields: Fields by their names in the newest release.

    Returns:
      Upstream's state.
    """
    # flax's dataclasses do not tell their fields to type checkers.
    make: Any = sampler_lib._SamplingState
    known = {each.name for each in dataclasses.fields(make)}
    return make(**{name: value for name, value in fields.items() if name in known})


class _NoBar:
    """A progress bar that is not shown."""

    def update_metrics(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def update(self) -> None:
        return

    def close(self) -> None:
        return


def hide_bars(*trainers: Any) -> None:
    """Keep the trainers' bars away from what is no terminal, as 0.1.7 does by itself.

    Args:
      *trainers: Upstream's trainers, before they train.
    """
    looks = "isatty" in progress_bar.ProgressBar.__init__.__code__.co_names
    if looks or sys.stderr.isatty():
        return
    for trainer in trainers:
        trainer._pbar = _NoBar()
