"""The checkpoints that a training run really wrote, and what they hold."""

import pathlib

import jax
from flax import nnx
from orbax import checkpoint as ocp

from harness import errors


def saved_steps(directory: pathlib.Path, role: str = "actor") -> list[int]:
    """Return the optimizer steps of a model's checkpoints, in order.

    Args:
      directory: A run's folder.
      role: `actor` or `critic`.

    Returns:
      Steps; none if nothing was saved. Unfinished checkpoints do not count.
    """
    root = directory / "checkpoints" / role
    if not root.is_dir():
        return []
    return sorted(ocp.utils.checkpoint_steps(root))


def restore_actor(actor: nnx.Module, directory: pathlib.Path, step: int | None = None) -> int:
    """Put a checkpoint's LoRA weights into an actor.

    Args:
      actor: The policy, with LoRA; changed in place.
      directory: The run's folder.
      step: Optimizer step; the last one saved if none. It is never taken from
        what the recipe asked for, since training may stop elsewhere.

    Returns:
      The step that was restored.

    Raises:
      HarnessError: No such checkpoint, or one of another shape.
    """
    steps = saved_steps(directory)
    if not steps:
        raise errors.HarnessError(f"{directory} holds no checkpoint: train first")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise errors.HarnessError(
            f"{directory} holds no checkpoint of step {step}: use one of {steps}"
        )
    state = nnx.state(actor, nnx.LoRAParam)
    folder = (directory / "checkpoints" / "actor" / str(step) / "model_params").absolute()
    with ocp.PyTreeCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(folder).item_metadata
        restored_shapes = _shapes(metadata.tree if metadata is not None else None)
        wanted_shapes = _shapes(nnx.to_pure_dict(state))
        if restored_shapes != wanted_shapes:
            raise errors.HarnessError(
                f"checkpoint {folder} does not match the recipe's LoRA: it has "
                f"{len(restored_shapes)} arrays, the recipe {len(wanted_shapes)}, or their shapes "
                "differ; use the recipe it was written with"
            )
        restored = checkpointer.restore(
            folder,
            item=state,
            restore_args=ocp.checkpoint_utils.construct_restore_args(state),
        )
    nnx.update(actor, restored)
    return step


def _shapes(tree: object) -> list[tuple[str, tuple[int, ...]]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return sorted((_name(path), tuple(leaf.shape)) for path, leaf in leaves)


def _name(path: tuple) -> str:
    parts = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
    return ".".join(part for part in parts if part != "value")
