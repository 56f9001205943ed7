"""Calls of the rollout worker, as PPO makes them, with all that was written kept."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from harness.upstream import hooks
from harness.upstream.engine import cluster as cluster_lib
from harness.upstream.instrument import trace


@dataclasses.dataclass(frozen=True)
class Draws:
    """What one generation gave; b rows, prompts padded to P, at most T new tokens.

    Attributes:
      prompt_ids: [b, P] padded on the left.
      written: [b, T] every token that was written after the prompts, and the
        pad where none was.
      last_positions: Place, prompts counted, of the last token that was written,
        of each micro-batch.
      tokens: [b] completions as handed on.
      log_probs: [b] the sampler's, of the tokens handed on; or none.
    """

    prompt_ids: np.ndarray
    written: np.ndarray
    last_positions: list[int]
    tokens: list[np.ndarray]
    log_probs: list[np.ndarray] | None


def draw(
    cluster: cluster_lib.Cluster,
    prompts: Sequence[str],
    micro_batch: int | None = None,
    **settings: Any,
) -> Draws:
    """Generate through the cluster, which is left as it was.

    Args:
      cluster: The cluster.
      prompts: [b] texts.
      micro_batch: Rows generated at once; none means all.
      **settings: Changes to the rollout's configuration.

    Returns:
      What was drawn.

    Raises:
      RuntimeError: The sampler no longer decodes by the program that is watched.
    """
    # The first call may compile anew, and so put aside the program that is watched.
    for _ in range(2):
        with _configured(cluster, settings), _watched(cluster) as seen:
            output = cluster.generate(prompts=list(prompts), micro_batch_size=micro_batch)
        if seen:
            break
    else:
        raise RuntimeError("the sampler did not run its decode program")
    ids = np.array(output.left_padded_prompt_tokens)
    return Draws(
        prompt_ids=ids,
        written=np.concatenate([buffer for buffer, _ in seen])[:, ids.shape[1] :],
        last_positions=[position for _, position in seen],
        tokens=[np.array(row) for row in output.tokens],
        log_probs=None if output.logprobs is None else [np.array(row) for row in output.logprobs],
    )


def key(seed: int) -> jax.Array:
    """Return a random key of the kind that the rollout's configuration names."""
    return jax.random.PRNGKey(seed)


def weights(cluster: cluster_lib.Cluster) -> trace.Arrays:
    """Copy the weights that the sampler, and the log-probs of the policy, use."""
    return trace.weights(cluster.rollout.model())


@contextlib.contextmanager
def favouring(cluster: cluster_lib.Cluster, token: int, rivals: Sequence[int]) -> Iterator[None]:
    """Let the sampler's policy, for a while, think highly of a token.

    Args:
      cluster: The cluster; the actor that is trained is left alone.
      token: Its logit becomes the sum of those of `rivals`.
      rivals: Other tokens.

    Yields:
      Nothing.
    """
    sampler: Any = hooks.sampler_of(cluster)
    plain = sampler._flattened_transformer_state
    changed = []
    for path, variable in jax.tree_util.tree_flatten_with_path(
        sampler._transformer_state, is_leaf=lambda leaf: hasattr(leaf, "get_value")
    )[0]:
        if "input_embedding" in jax.tree_util.keystr(path):
            value = variable.get_value()
            table = np.array(value)
            table[token] = table[list(rivals)].sum(axis=0)
            variable = variable.replace(jax.device_put(table, value.sharding))
        changed.append(variable)
    sampler._flattened_transformer_state = changed
    try:
        yield
    finally:
        sampler._flattened_transformer_state = plain


@contextlib.contextmanager
def _configured(cluster: Any, settings: dict[str, Any]) -> Iterator[None]:
    plain = cluster.cluster_config
    changed = dataclasses.replace(plain.rollout_config, **settings)
    cluster.cluster_config = dataclasses.replace(plain, rollout_config=changed)
    try:
        yield
    finally:
        cluster.cluster_config = plain


@contextlib.contextmanager
def _watched(cluster: Any) -> Iterator[list[tuple[np.ndarray, int]]]:
    seen: list[tuple[np.ndarray, int]] = []

    def noting(decode: Any) -> Any:
        def decoding(params: Any, state: Any) -> Any:
            done = decode(params, state)
            seen.append((np.array(done.token_buffer), int(done.decoding_step)))
            return done

        return decoding

    with hooks.DECODE.wrapped(cluster, noting):
        yield seen
