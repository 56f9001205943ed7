"""Gemma 3 checkpoints in upstream's Orbax layout: found, checked, read, written."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import serialization
from orbax import checkpoint as ocp
from tunix.models.gemma3 import params as gemma3_params

from harness import errors
from harness import recipe as recipe_lib

_AGGREGATE = "checkpoint"
_TABLE = "transformer/embedder/input_embedding"
_MARKERS = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", _AGGREGATE)


def find(path: str) -> epath.Path:
    """Find the Orbax folder at a path, or in one of its sub-folders.

    Args:
      path: A local or remote folder; a Kaggle download keeps the weights one
        level down.

    Returns:
      The folder that holds the weights.

    Raises:
      HarnessError: There is no such folder, or none or several checkpoints.
    """
    folder = epath.Path(path)
    if not folder.is_dir():
        raise errors.HarnessError(
            f"checkpoint {path} is not a folder: give the folder of an Orbax checkpoint"
        )
    if _is_checkpoint(folder):
        return folder
    found = [child for child in folder.iterdir() if child.is_dir() and _is_checkpoint(child)]
    if len(found) != 1:
        raise errors.HarnessError(
            f"checkpoint {path} holds {len(found)} Orbax checkpoints: give the folder of one"
        )
    return found[0]


def read(model: recipe_lib.Model) -> dict[tuple[Any, ...], np.ndarray]:
    """Read the weights that the recipe names, after checking their shapes.

    They are read into host memory, whatever devices wrote them.

    Args:
      model: Shapes and `checkpoint`.

    Returns:
      Every parameter by upstream's module path, in the checkpoint's dtype.

    Raises:
      HarnessError: The checkpoint is missing, truncated, or of another shape.
    """
    if model.checkpoint is None:
        raise errors.HarnessError(
            "this recipe takes its weights from a checkpoint: give --checkpoint PATH "
            "(an Orbax folder of Gemma 3, or kaggle:google/gemma-3/flax/gemma3-1b-it), or use "
            "--preset tiny"
        )
    folder = find(model.checkpoint)
    wanted = upstream_shapes(model)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            structure, shapes = _structure(checkpointer, folder)
            # Shapes are looked at before gigabytes are read; the oldest checkpoints
            # do not tell them, so they are looked at again afterwards.
            if shapes is not None:
                _check_shapes(folder, shapes, wanted)
            params = checkpointer.restore(
                folder,
                # To host memory: by itself Orbax lays arrays over the devices that wrote
                # them, which need not be here, nor be of a kind that is.
                restore_args=jax.tree.map(
                    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), structure
                ),
            )
    except errors.HarnessError:
        raise
    except Exception as error:
        raise _unreadable(folder, error) from None
    arrays = {_name(path): np.asarray(leaf) for path, leaf in _flatten(params).items()}
    _check_shapes(folder, {name: array.shape for name, array in arrays.items()}, wanted)
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise errors.HarnessError(
                f"checkpoint {folder} holds {array.dtype} in {name}: give weights that are not "
                "quantized"
            )
    tree: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        module, _, parameter = name.rpartition("/")
        tree.setdefault(module, {})[parameter] = array
    mapped = gemma3_params.map_from_upstream_checkpoint(tree, text_only=True)
    return {path: np.asarray(leaf) for path, leaf in _flatten(mapped).items()}


def describe_conversion(
    stored: Mapping[tuple[Any, ...], np.ndarray], used: Mapping[tuple[Any, ...], Any]
) -> str | None:
    """Return a sentence on what a change of dtype does to weights, or `None` if there is none.

    Args:
      stored: Weights as `read` gives them.
      used: Arrays or shapes, by the same paths, in the dtypes of the model.

    Returns:
      Which dtype becomes which, and whether that rounds.
    """
    changes = {(stored[path].dtype, np.dtype(used[path].dtype)) for path in used}
    sentences = []
    for old, new in sorted(changes, key=str):
        if old == new:
            continue
        finer = jnp.finfo(old).nmant > jnp.finfo(new).nmant
        narrower = jnp.finfo(old).maxexp > jnp.finfo(new).maxexp
        effect = (
            f"rounded to {jnp.finfo(new).nmant + 1} significant bits"
            if finer or narrower
            else "no value changes"
        )
        sentences.append(f"the checkpoint holds {old}, the model {new}: {effect}")
    return "; ".join(sentences) or None


def write(weights: Mapping[tuple[Any, ...], Any], path: epath.PathLike) -> None:
    """Write weights in the layout of the published checkpoints.

    Args:
      weights: Every parameter by upstream's module path, as
        `harness.models.gemma.weights_of` gives them.
      path: The folder to make; it must not exist.
    """
    tree: dict[str, dict[str, np.ndarray]] = {}
    for module, name, value in _to_upstream({k: np.asarray(v) for k, v in weights.items()}):
        tree.setdefault(module, {})[name] = value
    checkpointer = ocp.StandardCheckpointer()
    checkpointer.save(epath.Path(path).absolute(), tree)
    checkpointer.wait_until_finished()


def upstream_shapes(model: recipe_lib.Model) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a checkpoint of this model must have, by its own names."""
    d, h, n, k = model.embed_dim, model.head_dim, model.num_heads, model.num_kv_heads
    shapes: dict[str, tuple[int, ...]] = {
        _TABLE: (model.vocab_size, d),
        "transformer/final_norm/scale": (d,),
    }
    for index in range(model.num_layers):
        layer = f"transformer/layer_{index}"
        if n == k:
            shapes[f"{layer}/attn/qkv_einsum/w"] = (3, n, d, h)
        else:
            shapes[f"{layer}/attn/q_einsum/w"] = (n, d, h)
            shapes[f"{layer}/attn/kv_einsum/w"] = (2, k, d, h)
        shapes[f"{layer}/attn/attn_vec_einsum/w"] = (n, h, d)
        shapes[f"{layer}/attn/_query_norm/scale"] = (h,)
        shapes[f"{layer}/attn/_key_norm/scale"] = (h,)
        shapes[f"{layer}/mlp/gating_einsum/w"] = (2, model.hidden_dim, d)
        shapes[f"{layer}/mlp/linear/w"] = (model.hidden_dim, d)
        for norm in ("pre_attention", "post_attention", "pre_ffw", "post_ffw"):
            shapes[f"{layer}/{norm}_norm/scale"] = (d,)
    return shapes


def _to_upstream(
    weights: dict[tuple[Any, ...], np.ndarray],
) -> Iterator[tuple[str, str, np.ndarray]]:
    for path, value in weights.items():
        if path[0] != "layers":
            yield f"transformer/{path[0]}", path[1], value
            continue
        layer, rest = f"transformer/layer_{path[1]}", path[2:]
        if rest == ("mlp", "gate_proj", "kernel"):
            up = weights[(*path[:2], "mlp", "up_proj", "kernel")]
            yield f"{layer}/mlp/gating_einsum", "w", np.stack([value.T, up.T])
        elif rest == ("mlp", "down_proj", "kernel"):
            yield f"{layer}/mlp/linear", "w", value
        elif rest != ("mlp", "up_proj", "kernel"):
            yield "/".join((layer, *rest[:-1])), rest[-1], value


def _structure(
    checkpointer: ocp.PyTreeCheckpointer, folder: epath.Path
) -> tuple[Any, dict[str, tuple[int, ...]] | None]:
    """Return a checkpoint's tree, with any leaves, and its shapes by name if it tells them."""
    metadata = checkpointer.metadata(folder).item_metadata
    if metadata is None:  # before Orbax 0.3 there was but a file of names, or of values
        return serialization.msgpack_restore((folder / _AGGREGATE).read_bytes()), None
    tree = metadata.tree
    shapes = {_name(path): getattr(leaf, "shape", None) for path, leaf in _flatten(tree).items()}
    # Values in the file of names have no metadata.
    if any(shape is None for shape in shapes.values()):
        return tree, None
    return tree, {name: tuple(shape) for name, shape in shapes.items() if shape is not None}


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(part) for part in path)


def _check_shapes(
    folder: epath.Path, shapes: Mapping[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]
) -> None:
    found = {
        name: shape
        for name, shape in shapes.items()
        if not name.startswith("SigLiP")  # the vision tower of the larger models
    }
    _check_vocabulary(folder, found.get(_TABLE), wanted[_TABLE])
    for name in sorted(wanted.keys() & found.keys()):
        if wanted[name] != found[name]:
            raise errors.HarnessError(
                f"checkpoint {folder} does not match the recipe's model: {name} has shape "
                f"{list(found[name])}, the recipe needs {list(wanted[name])}"
            )
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or extra:
        what = (
            f"lacks {missing[0]}" if missing else f"has {extra[0]}, unknown to the recipe's model"
        )
        raise errors.HarnessError(
            f"checkpoint {folder} does not match the recipe's model: it {what} "
            f"({len(missing)} missing, {len(extra)} unexpected)"
        )


def _check_vocabulary(
    folder: epath.Path, found: tuple[int, ...] | None, wanted: tuple[int, ...]
) -> None:
    """Refuse an embedding with another number of rows, and say which number would do."""
    if found is None or len(found) != 2 or found[0] == wanted[0] or found[1:] != wanted[1:]:
        return
    raise errors.HarnessError(
        f"checkpoint {folder} does not match the recipe's model: its vocabulary has {found[0]:,} "
        f"rows, the recipe's {wanted[0]:,}; published vocabularies are padded to several sizes, "
        f"so give the checkpoint's own: --set model.vocab_size={found[0]}"
    )


def _unreadable(folder: epath.Path, error: Exception) -> errors.HarnessError:
    if isinstance(error, PermissionError):
        return errors.HarnessError(
            f"checkpoint {folder} cannot be read ({error.strerror}): let this user read all of it"
        )
    reason = " ".join(str(error).split())[:160]
    return errors.HarnessError(
        f"checkpoint {folder} cannot be read, it is truncated or not an Orbax checkpoint: "
        f"download it again ({type(error).__name__}: {reason})"
    )


def _is_checkpoint(folder: epath.Path) -> bool:
    return any((folder / marker).exists() for marker in _MARKERS)


def _flatten(tree: Any) -> dict[tuple[Any, ...], Any]:
    if not isinstance(tree, Mapping):
        return {(): tree}
    return {
        (key, *path): leaf for key, value in tree.items() for path, leaf in _flatten(value).items()
    }
