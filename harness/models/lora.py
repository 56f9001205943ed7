"""Low-rank adaptation of actor and critic by Qwix."""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import qwix
from flax import nnx
from tunix.models.gemma3 import model as gemma3

from harness import recipe as recipe_lib
from harness.models import gemma, precision


def apply_lora(
    base: gemma3.Gemma3,
    lora: recipe_lib.Lora,
    mesh: jax.sharding.Mesh,
    seed: int,
    *,
    dtype: recipe_lib.Dtype = "float32",
) -> gemma3.Gemma3:
    """Add LoRA pairs to the modules that the recipe names.

    The first factor of a pair is drawn as Qwix draws it, He-uniform, and the
    second is zero, so the result computes what `base` computes (Hu et al.
    2021, arXiv:2106.09685, sec. 4.1). Qwix finds the modules by running the
    model; it runs on shapes alone here, which takes a second where an eager
    run compiles every operation.

    Args:
      base: The policy; its arrays are shared with the result.
      lora: Rank, scale and modules.
      mesh: Devices to lay the pairs over.
      seed: Seed of the first factors; they depend on it and on each factor's
        path, not on the mesh.
      dtype: Of the pairs. The result computes in the base's dtype all the same.

    Returns:
      The adapted model.
    """
    model: Any = abstract_lora(base, lora, dtype)
    state = nnx.state(model, nnx.LoRAParam)
    shardings = gemma.flatten(nnx.to_pure_dict(nnx.get_named_sharding(state, mesh)))
    factors = {
        path: jax.device_put(_draw(path, leaf.shape, seed).astype(leaf.dtype), shardings[path])
        for path, leaf in gemma.flatten(nnx.to_pure_dict(state)).items()
    }
    nnx.update(model, gemma.unflatten({**gemma.weights_of(base), **factors}))
    return model


def abstract_lora(
    base: gemma3.Gemma3, lora: recipe_lib.Lora, dtype: recipe_lib.Dtype = "float32"
) -> gemma3.Gemma3:
    """Add LoRA pairs to a model by shapes alone.

    Args:
      base: The policy, with weights or with shapes; it is left alone.
      lora: Rank, scale and modules.
      dtype: Of the pairs.

    Returns:
      The adapted model, with `jax.ShapeDtypeStruct`s in place of weights.
    """
    provider = qwix.LoraProvider(module_path=lora.modules, rank=lora.rank, alpha=lora.alpha)
    adapted: Any = nnx.eval_shape(
        lambda module: qwix.apply_lora_to_model(
            module, provider, **module.get_model_input(), rngs=nnx.Rngs(params=0)
        ),
        base,
    )
    # Qwix makes pairs of the base's dtype.
    nnx.update(adapted, precision.cast(nnx.state(adapted, nnx.LoRAParam), dtype))
    return precision.compute_in(adapted, base.config.param_dtype)


def lora_state(model: nnx.Module) -> nnx.State:
    """Return the LoRA parameters of a model as a state."""
    return nnx.state(model, nnx.LoRAParam)


def lora_weights(model: nnx.Module) -> Mapping[str, jax.Array]:
    """Return every LoRA factor by its dotted path."""
    flat = gemma.flatten(nnx.to_pure_dict(lora_state(model)))
    return {".".join(str(part) for part in path): leaf for path, leaf in flat.items()}


def _draw(path: tuple[Any, ...], shape: tuple[int, ...], seed: int) -> np.ndarray:
    if path[-1].endswith("_lora_b"):
        return np.zeros(shape, np.float32)
    name = "/".join(str(part) for part in path)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    limit = math.sqrt(6 / math.prod(shape[:-1]))  # He et al. 2015, arXiv:1502.01852
    return rng.uniform(-limit, limit, shape).astype(np.float32)
