"""The arrays that live through a whole training, and their bytes on a device."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from harness.upstream.engine import learner as learner_lib
from harness.upstream.engine import rollout as rollout_lib

PARTS = ("first moment", "second moment", "gradient accumulator", "optimizer counters")
PIN = "pinned_host"


@dataclasses.dataclass(frozen=True)
class Resident:
    """Arrays that live on the devices as long as training does.

    Attributes:
      name: What they are.
      arrays: How many.
      bytes: Bytes of all of them on one device, as their shapes and shardings say.
      pinned: Whether upstream keeps them in the host's memory.
    """

    name: str
    arrays: int
    bytes: int
    pinned: bool


def resident(learner: learner_lib.Learner) -> list[Resident]:
    """List what stays on the devices between the programs, by name.

    Args:
      learner: From `abstract_learner`, or one that runs.

    Returns:
      Models, optimizers and what upstream keeps besides; what several roles
      share is listed once.
    """
    cluster: Any = learner.rl_cluster
    actor, critic = cluster.actor_trainer, cluster.critic_trainer
    groups: dict[str, Any] = {
        "actor base": nnx.state(actor.model, nnx.Not(nnx.LoRAParam)),
        "actor LoRA": nnx.state(actor.model, nnx.LoRAParam),
        **_optimizer_parts("actor", actor),
        "critic": _without(nnx.state(critic.model, nnx.Param), nnx.state(actor.model)),
        **_optimizer_parts("critic", critic),
    }
    sampler = getattr(cluster.rollout, "_sampler", None)
    if isinstance(sampler, rollout_lib.EngineSampler) and (copied := sampler.copied()):
        groups["rollout copy"] = copied
    anchor = getattr(cluster, "_anchor_policy_state", None)  # from 0.1.7 on
    if anchor is not None:
        groups["actor weights on the host"] = anchor
    return [_resident(name, jax.tree.leaves(tree)) for name, tree in groups.items()]


def _without(state: Any, others: Any) -> list[Any]:
    """Return the leaves of a state that another does not share."""
    held = {id(leaf) for leaf in jax.tree.leaves(others)}
    return [leaf for leaf in jax.tree.leaves(state) if id(leaf) not in held]


def _optimizer_parts(role: str, trainer: Any) -> dict[str, Any]:
    """Split an optimizer's state by the names that Optax gives its fields."""
    parts: dict[str, list[Any]] = {f"{role} {part}": [] for part in PARTS}
    names = {"mu": PARTS[0], "nu": PARTS[1], "acc_grads": PARTS[2]}
    state = nnx.to_pure_dict(nnx.state(trainer.optimizer))
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        found = {str(getattr(key, "key", key)) for key in path} & set(names)
        part = names[found.pop()] if found else PARTS[3]
        parts[f"{role} {part}"].append(leaf)
    return parts


def _resident(name: str, leaves: Sequence[Any]) -> Resident:
    return Resident(
        name=name,
        arrays=len(leaves),
        bytes=sum(bytes_on_a_device(leaf) for leaf in leaves),
        pinned=any(_memory_kind(leaf) == PIN for leaf in leaves),
    )


def bytes_on_a_device(leaf: Any) -> int:
    """Bytes of the part of an array, or of a shape, that lies on one device."""
    sharding = getattr(leaf, "sharding", None)
    shape = sharding.shard_shape(leaf.shape) if sharding is not None else leaf.shape
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(leaf.dtype).itemsize


def _memory_kind(leaf: Any) -> str | None:
    return getattr(getattr(leaf, "sharding", None), "memory_kind", None)
