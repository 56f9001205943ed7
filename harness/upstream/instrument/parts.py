"""The pieces of a training run, measured where Tunix's learner calls them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from harness.measure import parts
from harness.upstream.engine import cluster as cluster_lib

_PIECES = {
    "generate": "rollout",
    "get_old_per_token_logps": "log-probs",
    "get_ref_per_token_logps": "reference log-probs",
    "get_values": "values",
    "update_actor": "actor step",
    "update_critic": "critic step",
    "save_checkpoints": "checkpoint",
}


def measure(cluster: cluster_lib.Cluster, part: parts.Part) -> None:
    """Measure every piece of a global step that goes through the cluster.

    Each piece waits for its device work to finish, so that its time is its own. What a run
    computes stays as it is; that it waits costs time where a device would work ahead.

    Args:
      cluster: Its methods are wrapped in place.
      part: Measures a block by name.
    """
    for method, name in _PIECES.items():
        if (call := getattr(cluster, method, None)) is not None:
            setattr(cluster, method, _measured(cluster, call, name, part))


def _measured(cluster: Any, call: Callable[..., Any], name: str, part: parts.Part) -> Any:
    @functools.wraps(call)
    def measured(*args: Any, **kwargs: Any) -> Any:
        with part(name):
            result = call(*args, **kwargs)
            jax.block_until_ready(result)
            for trainer in (cluster.actor_trainer, cluster.critic_trainer):
                jax.block_until_ready(nnx.state(trainer.model))
                jax.block_until_ready(nnx.state(trainer.optimizer))
            return result

    return measured
