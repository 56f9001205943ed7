"""What was loaded, and whether it computes what it should: checksum and log-probs of a prompt."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.models.gemma3 import model as gemma3
from tunix.sft import utils as sft_utils

from harness import errors, files
from harness.models import gemma
from harness.models import mesh as mesh_lib
from harness.tokenizer import Tokenizer

SCHEMA = "tunix-ppo-harness/log-probs/1"
PROMPT = "<start_of_turn>user\nWhat is 2 + 3?<end_of_turn>\n<start_of_turn>model"
# Float32 kernels of two backends differ by about 1e-4 nats over 26 layers;
# bfloat16 has 8 bits, and its log-probs differ in the first decimal.
TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5}


def describe(policy: gemma3.Gemma3) -> dict[str, Any]:
    """Describe what a model holds.

    Args:
      policy: The model.

    Returns:
      Plain JSON values: `parameters`, `bytes`, `dtypes`, `sha256` over all of
      it, and `arrays` by path, each with `shape` and `dtype`.
    """
    weights = {"/".join(map(str, path)): leaf for path, leaf in gemma.weights_of(policy).items()}
    return {
        "parameters": sum(leaf.size for leaf in weights.values()),
        "bytes": sum(leaf.nbytes for leaf in weights.values()),
        "dtypes": sorted({str(leaf.dtype) for leaf in weights.values()}),
        "sha256": gemma.checksum(policy),
        "arrays": {
            name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
            for name, leaf in sorted(weights.items())
        },
    }


def log_probs(
    policy: gemma3.Gemma3,
    tokenizer: Tokenizer,
    mesh: jax.sharding.Mesh,
    *,
    prompt: str = PROMPT,
    top: int = 10,
) -> dict[str, Any]:
    """Compute the likeliest next tokens after each token of a prompt.

    Args:
      policy: The model, without LoRA.
      tokenizer: Its tokenizer.
      mesh: Devices that hold the model.
      prompt: The text; `<bos>` is put before it.
      top: Number of tokens at each position.

    Returns:
      Plain JSON values: `schema`, `prompt`, `tokens` [T], `top_ids` [T, top]
      and `top_log_probs` [T, top] in nats, and `dtype`.
    """
    tokens, found = _all_log_probs(policy, tokenizer, mesh, prompt)
    ids = np.argsort(-found, axis=-1, kind="stable")[:, : min(top, found.shape[-1])]
    return {
        "schema": SCHEMA,
        "prompt": prompt,
        "tokens": tokens,
        "top_ids": ids.tolist(),
        "top_log_probs": np.take_along_axis(found, ids, -1).tolist(),
        "dtype": _dtype(policy),
    }


def _all_log_probs(
    policy: gemma3.Gemma3, tokenizer: Tokenizer, mesh: jax.sharding.Mesh, prompt: str
) -> tuple[list[int], np.ndarray]:
    """Return the prompt's tokens [T] and the log-probs [T, V] of all that may follow each."""
    tokens = [tokenizer.bos_id(), *tokenizer.encode(prompt)]
    graph, state = nnx.split(policy)
    with mesh_lib.entered(mesh):
        return tokens, np.asarray(_log_probs(_Graph(graph), state, jnp.array([tokens]))[0])


@dataclasses.dataclass(frozen=True)
class _Graph:
    """A module without its arrays; upstream's own cannot be hashed."""

    graph: Any

    def __hash__(self) -> int:
        return hash(type(self.graph))


@functools.partial(jax.jit, static_argnums=0)  # nnx.jit would return the whole model
def _log_probs(module: _Graph, state: nnx.State, tokens: jax.Array) -> jax.Array:
    policy = nnx.merge(module.graph, state)
    mask = jnp.ones_like(tokens, bool)
    logits, _ = policy(
        tokens,
        sft_utils.build_positions_from_mask(mask),
        None,
        sft_utils.make_causal_attn_mask(mask),
    )
    return jax.nn.log_softmax(logits.astype(jnp.float32))


def _dtype(policy: gemma3.Gemma3) -> str:
    return str(gemma.weights_of(policy)[("final_norm", "scale")].dtype)


def write(found: dict[str, Any], path: pathlib.Path) -> None:
    """Write what `log_probs` gave.

    Raises:
      HarnessError: It cannot be written.
    """
    files.write_whole(path, json.dumps(found) + "\n")


def compare(
    policy: gemma3.Gemma3, tokenizer: Tokenizer, mesh: jax.sharding.Mesh, path: pathlib.Path
) -> float:
    """Hold a model to log-probs that were stored.

    Args:
      policy: The model, without LoRA.
      tokenizer: Its tokenizer.
      mesh: Devices that hold the model.
      path: What `write` wrote.

    Returns:
      The largest difference of a log-prob, in nats.

    Raises:
      HarnessError: The file cannot be read, or the model computes otherwise.
    """
    try:
        want = json.loads(path.read_text())
        if want["schema"] != SCHEMA:
            raise ValueError(f"its schema is {want['schema']}")
        ids, values = np.array(want["top_ids"]), np.array(want["top_log_probs"], float)
        prompt, tokens = want["prompt"], want["tokens"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.HarnessError(
            f"log-probs {path} cannot be read ({error}): make them by make-log-probs"
        ) from None
    got_tokens, got = _all_log_probs(policy, tokenizer, mesh, prompt)
    if got_tokens != tokens:
        raise errors.HarnessError(
            f"the tokenizer cuts the prompt of {path} otherwise than the one that it was made "
            "with: give that tokenizer"
        )
    distance = float(np.max(np.abs(np.take_along_axis(got, ids, -1) - values)))
    tolerance = max(TOLERANCE[_dtype(policy)], TOLERANCE[want["dtype"]])
    if not distance <= tolerance:
        raise errors.HarnessError(
            f"the model's log-probs differ from {path} by {distance:.3g} nats, more than "
            f"{tolerance:g}: it is another model, or was loaded wrongly"
        )
    return distance
