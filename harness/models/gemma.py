"""Gemma 3 from a recipe: random at any size, or from a checkpoint."""

import hashlib
import itertools
import math
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.models.gemma3 import model as gemma3

from harness import recipe as recipe_lib
from harness.models import checkpoint, precision, remat

_KINDS = {
    "local": gemma3.AttentionType.LOCAL_SLIDING,
    "global": gemma3.AttentionType.GLOBAL,
}


def model_config(model: recipe_lib.Model) -> gemma3.ModelConfig:
    """Return upstream's configuration of the recipe's model."""
    return gemma3.ModelConfig(
        num_layers=model.num_layers,
        num_embed=model.vocab_size,
        embed_dim=model.embed_dim,
        hidden_dim=model.hidden_dim,
        num_heads=model.num_heads,
        head_dim=model.head_dim,
        num_kv_heads=model.num_kv_heads,
        sliding_window_size=model.sliding_window,
        local_base_frequency=model.local_rope_base,
        global_base_frequency=model.global_rope_base,
        param_dtype=jnp.dtype(model.dtype),
        # Applied by `remat`: with upstream's own, sampling fails.
        remat_config=gemma3.RematConfig.NONE,
    )


def abstract_gemma(model: recipe_lib.Model) -> gemma3.Gemma3:
    """Build the module with shapes in place of weights.

    Args:
      model: Shapes, dtype and attention pattern.

    Returns:
      A Gemma 3 whose parameters are `jax.ShapeDtypeStruct`s.
    """
    config = model_config(model)
    module = nnx.eval_shape(lambda: gemma3.Gemma3(config, rngs=nnx.Rngs(0)))
    # Upstream fixes five local layers to one global one; a shallow model would
    # have no global layer, so the kinds are set from the recipe.
    for layer, kind in zip(module.layers, itertools.cycle(model.attention_pattern), strict=False):
        layer.attn.attn_type = _KINDS[kind]
        local = kind == "local"
        layer.attn.rope_base_frequency = model.local_rope_base if local else model.global_rope_base
    if model.remat is not None:
        remat.apply(module, model.remat)
    return module


def random_gemma(model: recipe_lib.Model, mesh: jax.sharding.Mesh, seed: int) -> gemma3.Gemma3:
    """Draw a Gemma 3 in which every weight matters.

    Upstream's own initialisation has feed-forward kernels of zero and weights
    of standard deviation 0.01, so half of the network would be untested and
    the logits near uniform. Here a kernel has variance 1 / fan-in and a norm's
    scale is 1 + N(0, 0.1), so activations are of order one at every layer and
    logits have standard deviation near one.

    Args:
      model: Shapes and dtype.
      mesh: Devices to lay the weights over.
      seed: Weights depend on it and on each parameter's path, not on the mesh.

    Returns:
      The model, sharded by upstream's partition specs.
    """
    module = abstract_gemma(model)
    return _fill(module, lambda path, shape: _draw(path, shape, seed), mesh)


def load_gemma(
    model: recipe_lib.Model,
    mesh: jax.sharding.Mesh,
    report: Callable[[str], None] = warnings.warn,
) -> gemma3.Gemma3:
    """Load the weights from the recipe's checkpoint.

    Args:
      model: Shapes, dtype and `checkpoint`.
      mesh: Devices to lay the weights over.
      report: Called with a line where the checkpoint's dtype is not the model's.

    Returns:
      The model, sharded by upstream's partition specs, in the recipe's dtype.

    Raises:
      HarnessError: The checkpoint is missing, truncated, or of another shape.
    """
    module = abstract_gemma(model)
    weights = checkpoint.read(model)
    used = flatten(nnx.to_pure_dict(nnx.state(module)))
    if line := checkpoint.describe_conversion(weights, used):
        report(line)
    # Each array of the host's is given back once it is on its devices.
    return _fill(module, lambda path, shape: weights.pop(path), mesh)


def materialise(
    module: gemma3.Gemma3,
    weights: Mapping[tuple[Any, ...], np.ndarray | jax.Array],
    mesh: jax.sharding.Mesh,
) -> gemma3.Gemma3:
    """Put weights into an abstract module.

    Args:
      module: From `abstract_gemma`; changed in place.
      weights: Every parameter by its path.
      mesh: Devices to lay them over.

    Returns:
      `module`.
    """
    return _fill(module, lambda path, shape: weights[path], mesh)


def _fill(
    module: gemma3.Gemma3,
    weight: Callable[[tuple[Any, ...], tuple[int, ...]], np.ndarray | jax.Array],
    mesh: jax.sharding.Mesh,
) -> gemma3.Gemma3:
    """Put weights into an abstract module, asking for one after the other by path and shape."""
    state = nnx.state(module)
    shardings = flatten(nnx.to_pure_dict(nnx.get_named_sharding(state, mesh)))
    placed = {}
    for path, leaf in flatten(nnx.to_pure_dict(state)).items():
        array = jnp.asarray(weight(path, leaf.shape), dtype=leaf.dtype)
        placed[path] = jax.device_put(array, shardings[path])
        # Arrays are made faster than they are laid out, and would pile up.
        placed[path].block_until_ready()
    nnx.update(module, unflatten(placed))
    return module


def weights_of(module: nnx.Module) -> dict[tuple[Any, ...], jax.Array]:
    """Return every parameter of a model by its path."""
    return flatten(nnx.to_pure_dict(nnx.state(module, nnx.Param)))


def checksum(module: nnx.Module) -> str:
    """Return the SHA-256 of every parameter's path, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for path, leaf in sorted(weights_of(module).items(), key=lambda item: str(item[0])):
        array = np.asarray(leaf)
        name = "/".join(map(str, path))
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def clone(module: gemma3.Gemma3, dtype: recipe_lib.Dtype | None = None) -> gemma3.Gemma3:
    """Copy a model; the copy shares no buffer with the original.

    Args:
      module: The model.
      dtype: Of the copy's parameters; the original's if None.

    Returns:
      The copy; it computes in the original's dtype.
    """
    graph, state = nnx.split(module)
    # What is cast is a copy already.
    copied = jax.tree.map(
        lambda leaf: leaf.astype(dtype) if dtype and leaf.dtype != dtype else jnp.copy(leaf), state
    )
    return precision.compute_in(nnx.merge(graph, copied), module.config.param_dtype)


def shapes_of(module: Any) -> Any:
    """Copy a model with `jax.ShapeDtypeStruct`s in place of its weights."""
    return nnx.eval_shape(lambda inner: inner, module)


def lay_over(module: Any, mesh: jax.sharding.Mesh) -> Any:
    """Describe for each shape of an abstract model how it lies on a mesh.

    Args:
      module: A model with shapes in place of weights; changed in place.
      mesh: Devices, which need not exist.

    Returns:
      `module`; each shape has the sharding that upstream's partition specs ask for.
    """
    state = nnx.state(module)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        nnx.get_named_sharding(state, mesh),
    )
    nnx.update(module, placed)
    return module


def flatten(tree: Mapping[Any, Any]) -> dict[tuple[Any, ...], Any]:
    """Flatten nested mappings to paths, in a fixed order."""
    flat: dict[tuple[Any, ...], Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update({(key, *rest): leaf for rest, leaf in flatten(value).items()})
        else:
            flat[(key,)] = value
    return flat


def unflatten(flat: Mapping[tuple[Any, ...], Any]) -> dict[Any, Any]:
    """Undo `flatten`."""
    tree: dict[Any, Any] = {}
    for path, leaf in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def _draw(path: tuple[Any, ...], shape: tuple[int, ...], seed: int) -> np.ndarray:
    name = "/".join(str(part) for part in path)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    noise = rng.standard_normal(shape, dtype=np.float32)
    if path[-1] == "scale":
        return 0.1 * noise
    noise /= math.sqrt(_fan_in(path, shape))  # in place: an embedding has a gigabyte
    return noise


def _fan_in(path: tuple[Any, ...], shape: tuple[int, ...]) -> int:
    if "attn_vec_einsum" in path:  # [heads, head_dim, embed]
        return shape[0] * shape[1]
    if "input_embedding" in path:  # [vocab, embed]; rows are scaled by sqrt(embed) when read
        return shape[1]
    return shape[-2]  # [..., embed, head_dim] of the projections, [in, out] of kernels
