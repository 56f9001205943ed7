"""Optimizer steps on made-up micro-batches: nothing is sampled, so only the step is compiled."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harness.upstream.instrument import programs


def example_of(learner: Any, rows: int, seed: int = 0) -> Any:
    """Make a micro-batch for a learner's trainers; completions are of unequal lengths."""
    rng = np.random.default_rng(seed)
    shapes: Any = programs.abstract_example(learner, rows)
    width = shapes.completion_mask.shape[1]
    mask = np.arange(width) < rng.integers(2, width + 1, rows)[:, None]
    made: dict[str, Any] = {}
    for field in dataclasses.fields(shapes):
        leaf = getattr(shapes, field.name)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            made[field.name] = rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype)
    made["prompt_ids"] = rng.integers(10, 100, shapes.prompt_ids.shape)
    made["prompt_mask"] = np.ones(shapes.prompt_mask.shape)
    made["completion_ids"] = np.where(mask, rng.integers(10, 100, mask.shape), 0)
    made["completion_mask"] = mask
    # Log-probs of tokens among five hundred, so that the ratio is not clipped throughout.
    made["old_per_token_logps"] -= 6.2
    if "token_weight" in made:
        made["token_weight"] = np.ones(rows)
    typed = {name: jnp.asarray(value, getattr(shapes, name).dtype) for name, value in made.items()}
    return dataclasses.replace(shapes, **typed)
