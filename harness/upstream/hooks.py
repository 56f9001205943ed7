"""The named points at which other code may stand between Tunix and what it calls.

Whatever watches, times, lowers or replaces a part of a global step does it through one of these
hooks, so that the attributes of Tunix that they rest on are named once. A hook that Tunix no
longer has fails by its name.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx
from tunix.rl import common, rl_cluster
from tunix.rl.ppo import ppo_learner
from tunix.sft import checkpoint_manager, peft_trainer

Wrapper = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Hook:
    """An attribute that Tunix looks up each time that it takes a step of its work.

    Attributes:
      name: What happens there.
      owner: Returns the object that has the attribute, of what the hook is asked of.
      attribute: Its name.
    """

    name: str
    owner: Callable[[Any], Any]
    attribute: str

    def get(self, of: Any) -> Any:
        """Return what is called there now.

        Args:
          of: What the hook is a place of: a cluster, a learner, a trainer, or `None` for one
            that is a place of Tunix's modules.
        """
        owner = self.owner(of)
        try:
            return getattr(owner, self.attribute)
        except AttributeError:
            raise AttributeError(
                f"Tunix has no point for the hook '{self.name}': {type(owner).__name__} lacks "
                f"{self.attribute}"
            ) from None

    def install(self, of: Any, wrapper: Wrapper) -> None:
        """Put something in the place of what is called there, for good.

        Args:
          of: See `get`.
          wrapper: Takes what is called there now, and returns what is to be called.
        """
        setattr(self.owner(of), self.attribute, wrapper(self.get(of)))

    @contextlib.contextmanager
    def wrapped(self, of: Any, wrapper: Wrapper) -> Iterator[None]:
        """Put something in the place of what is called there until the block ends.

        Args:
          of: See `get`.
          wrapper: See `install`.

        Yields:
          Nothing.
        """
        owner = self.owner(of)
        # A method is found in the class: what is put before it is taken away again.
        own = self.attribute in vars(owner)
        before = self.get(of)
        there = wrapper(before)
        setattr(owner, self.attribute, there)
        try:
            yield
        finally:
            # Tunix may have made its own anew meanwhile, which then stays.
            if getattr(owner, self.attribute) is there:
                if own:
                    setattr(owner, self.attribute, before)
                else:
                    delattr(owner, self.attribute)


def _own(name: str, attribute: str) -> Hook:
    return Hook(name, lambda of: of, attribute)


def _rollout(name: str, attribute: str) -> Hook:
    return Hook(name, lambda cluster: cluster.rollout, attribute)


def _sampler(name: str, attribute: str) -> Hook:
    return Hook(name, sampler_of, attribute)


def _inference(name: str, attribute: str) -> Hook:
    return Hook(name, lambda cluster: cluster.inference_worker, attribute)


def _module(name: str, module: Any, attribute: str) -> Hook:
    return Hook(name, lambda of: module, attribute)


def sampler_of(cluster: Any) -> Any:
    """Return the sampler of a cluster's rollout worker."""
    return cluster.rollout._sampler


# Of a cluster.
GENERATE = _rollout("generation", "generate")
SAMPLING_STATE = _sampler("the sampler's first state", "init_sample_state")
PREFILL = _sampler("prefill", "_compiled_prefill_fn")
DECODE = _sampler("decode", "_compiled_decode_fn")
LOG_PROBS = _rollout("log-probs", "get_per_token_logps")
VALUES = _inference("values", "get_values")
LOG = _own("what is logged of a global step", "_log_metrics")
CLOSE = _own("the end of a training", "close")
# Of a learner.
REWARDS = _own("rewards", "_compute_rewards")
ADVANTAGES = _own("a group's advantages", "_generate_and_compute_advantage")
# Of a trainer.
GRADIENT = _own("a gradient", "train")
EVALUATION = _own("validation", "_run_eval")
FIGURES = _own("a step's loss and norm", "_buffer_metrics")
AUXILIARY_FIGURES = _own("a step's other figures", "_post_process_train_step")
STEPS = _own("the making of the compiled steps", "jit_train_and_eval_step")
# Of a metrics logger.
LOGGED = _own("a figure that is logged", "log")
# Of a function that `nnx.jit` made, or of what stands in its place.
JITTED = _own("a compiled function", "jitted_fn")
# Of Tunix's modules, while a cluster or a learner is built or a program is called.
CLUSTER_UTILITIES = _module("a cluster's utilities", rl_cluster, "rl_utils")
TRAINER_FLAX = _module("a trainer's flax", peft_trainer, "nnx")
TRAINER_OPTAX = _module("a trainer's optax", peft_trainer, "optax")
CHECKPOINT_ORBAX = _module("a checkpoint manager's orbax", checkpoint_manager, "ocp")
LOG_PROBS_PROGRAM = _module("the program of log-probs", common, "compute_per_token_logps")
ALGORITHMS = _module("the registry of algorithms", ppo_learner.registry, "get")


def holder_of(step: Any) -> Any:
    """Return what holds the jitted function of a trainer's step, as its `jitted_fn`.

    Args:
      step: From a trainer's `jit_train_and_eval_step`.

    Returns:
      The object that `nnx.jit` made, or the step that takes its place where it is fixed.
    """
    return getattr(step.func, "__wrapped__", step.func)


def variables_of(model: nnx.Module) -> dict[int, nnx.Variable]:
    """Return a model's variables by the ids of the arrays that they hold now."""
    return {
        id(variable.get_raw_value()): variable
        for _, variable in nnx.to_flat_state(nnx.state(model))
    }
