"""Upstream's rollout worker, with the mends that concern sampling."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.generate import tokenizer_adapter
from tunix.rl.rollout import base_rollout, vanilla_rollout

from harness.upstream import rebind


def _index_after_first_end(ids: np.ndarray, eos_id: Any) -> int:
    """Gives the length of a completion, its end token included."""
    return min(sampler_lib.utils.np_find_first_eos_idx(ids, eos_id) + 1, len(ids))


class EndTokenSampler(sampler_lib.Sampler):
    """A sampler whose completions hold the end token that was drawn.

    Upstream cuts a completion before its end token, so the choice to stop is
    never trained on. The text stays as it was: it has no end token.
    """

    __call__ = rebind.rebind(
        sampler_lib.Sampler.__call__,
        utils=rebind.Overlay(sampler_lib.utils, np_find_first_eos_idx=_index_after_first_end),
    )

    def __init__(
        self, transformer: nnx.Module, tokenizer: Any, cache_config: sampler_lib.CacheConfig
    ):
        """Builds upstream's sampler; see there."""
        super().__init__(transformer, tokenizer, cache_config)
        self.tokenizer = _TextWithoutEnd(self)


class _TextWithoutEnd(tokenizer_adapter.TokenizerAdapter):
    """Decodes a completion without the end token that closes it."""

    def __init__(self, sampler: sampler_lib.Sampler):
        super().__init__(sampler.tokenizer.tokenizer)
        self._sampler = sampler

    def decode(self, ids: Sequence[int], **kwargs: Any) -> str:
        ids = list(ids)
        if ids and ids[-1] in np.asarray(self._sampler.eos_ids):
            ids = ids[:-1]
        return super().decode(ids, **kwargs)


class MendedRollout(vanilla_rollout.VanillaRollout):
    """Upstream's vanilla rollout with chosen mends.

    Attributes:
      calls: Number of generations so far; each has noise of its own.
    """

    def __init__(
        self,
        rollout_actor: nnx.Module,
        tokenizer: Any,
        mesh: jax.sharding.Mesh,
        rollout_config: base_rollout.RolloutConfig,
        *,
        keep_end_token: bool,
        fresh_noise: bool,
        seed: int,
    ):
        """Builds the worker; upstream's cluster calls it with the first four.

        Args:
          rollout_actor: The policy.
          tokenizer: The tokenizer.
          mesh: Unused, as by the vanilla worker.
          rollout_config: Sampling configuration; only the cache size is read.
          keep_end_token: Whether completions keep their end token.
          fresh_noise: Whether every generation draws its own noise.
          seed: Seed of that noise.
        """
        del mesh
        config: Any = rollout_actor.config  # type: ignore[attr-defined]
        sampler = EndTokenSampler if keep_end_token else sampler_lib.Sampler
        self._sampler = sampler(
            rollout_actor,
            tokenizer,
            sampler_lib.CacheConfig(
                cache_size=rollout_config.kv_cache_size,
                num_layers=config.num_layers,
                num_kv_heads=config.num_kv_heads,
                head_dim=config.head_dim,
            ),
        )
        self._key = jax.random.PRNGKey(seed) if fresh_noise else None
        self.calls = 0

    def generate(
        self, prompts: list[str], rollout_config: base_rollout.RolloutConfig, **kwargs: Any
    ) -> base_rollout.RolloutOutput:
        """Samples one completion per prompt; see upstream."""
        if self._key is not None and rollout_config.seed is None:
            key = jax.random.fold_in(self._key, self.calls)
            rollout_config = dataclasses.replace(rollout_config, seed=key)
        self.calls += 1
        return super().generate(prompts, rollout_config, **kwargs)
