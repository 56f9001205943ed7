"""The points of a PPO run at which a fix of a known issue may act."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx

LossFn = Callable[..., tuple[Any, dict[str, Any]]]


class Fix:
    """What one fix changes.

    The engine calls each method of each fix that is in place. A method that is not overridden
    changes nothing, so that a fix says no more than what it does. Functions that are given are
    Tunix's, or what another fix made of them; none of Tunix's own objects may be changed.

    Attributes:
      whole_batches: Whether a rollout batch is sampled, scored and whitened as one, and cut anew
        into mini-batches in each epoch.
    """

    whole_batches: bool = False

    # ------------------------------------------------------------------ building

    def algorithm(self, config: Any, ppo: Any) -> None:
        """Change Tunix's `PPOConfig`, made from the recipe's numbers `ppo`."""

    def training(self, config: Any) -> None:
        """Change Tunix's `RLTrainingConfig`."""

    def critic(self, critic: nnx.Module) -> None:
        """Change the critic before its trainer is made."""

    def init_cluster(self, init: Callable[..., None]) -> Callable[..., None]:
        """Return what loads the models onto their devices in the place of `init(cluster)`."""
        return init

    def cluster(self, cluster: Any) -> None:
        """Change a cluster that has been built."""

    def close(self, cluster: Any) -> None:
        """Act before a cluster closes its trainers."""

    # ------------------------------------------------------------------ sampling

    def sampler(self, sampler: Any) -> None:
        """Change a sampler that has been built."""

    def sampler_call(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return what is called as `call(sampler, prompts, ...)` for a generation."""
        return call

    def stop_tokens(self, sampler: Any, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids of the tokens that end a sequence."""
        return ids

    def sampling_state(self, state: Any, ids: Any) -> Any:
        """Return the state with which a generation of prompts `ids` [B, P] begins."""
        return state

    def decode_state(self, state: Any) -> Any:
        """Return the state with which decoding begins."""
        return state

    def generation(self, worker: Any, config: Any) -> Any:
        """Return the rollout configuration of one generation."""
        return config

    def generation_arguments(self, cluster: Any, arguments: dict[str, Any]) -> None:
        """Change the arguments by name of the cluster's `generate`."""

    # ------------------------------------------------------------------ scoring

    def log_probs(self, compute: Callable[..., Any], temperature: float) -> Callable[..., Any]:
        """Return what is called as `compute(worker, prompt_tokens, completion_tokens)`."""
        return compute

    def values(self, cluster: Any, compute: Callable[..., Any]) -> Callable[..., Any]:
        """Return what is called as `compute(prompt_tokens, completion_tokens, pad, end)`."""
        return compute

    def group_size(self, group: int, whole: int | None) -> int:
        """Return how many sequences have their advantages computed together.

        Args:
          group: As Tunix has it.
          whole: Sequences behind one optimizer step, or in the batch where batches are whole.
        """
        return group

    def advantages(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """Return what is called as `compute(learner, columns, mode)` for a group's example."""
        return compute

    def estimator(self, estimator: Callable[..., Any]) -> Callable[..., Any]:
        """Return the estimator of advantages and returns."""
        return estimator

    # ------------------------------------------------------------------ learning

    def weigh(self, examples: list[Any]) -> list[Any]:
        """Return the micro-batches of one optimizer step, as the trainers are to get them."""
        return examples

    def example_shapes(self, example: Any) -> Any:
        """Return the shapes of a micro-batch, as the trainers are to get it."""
        return example

    def policy_loss(self, loss_fn: LossFn, temperature: float) -> LossFn:
        """Return the policy's loss, before it is wrapped by `loss`."""
        return loss_fn

    def loss(self, loss_fn: LossFn) -> LossFn:
        """Return the loss of either model, called as `loss_fn(model, example, ...)`."""
        return loss_fn


def chain(fixes: Sequence[Fix], name: str, function: Any, *arguments: Any) -> Any:
    """Let each fix change a function in turn, by the method called `name`."""
    for fix in fixes:
        function = getattr(fix, name)(function, *arguments)
    return function
