"""Generation for evaluation, by upstream's sampler."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from tunix.generate import sampler as sampler_lib

from harness import models
from harness import recipe as recipe_lib
from harness.tokenizer import Tokenizer


class _Sampler(sampler_lib.Sampler):
    """Upstream's sampler, without the array in the key of its programs.

    See the known issue `sampler-state-static-array`: evaluation must not make a training fail that
    is traced when its programs are collected.
    """

    def init_sample_state(self, all_input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        state = super().init_sample_state(all_input_ids, *args, **kwargs)
        return dataclasses.replace(state, num_input_tokens=int(all_input_ids.shape[1]))


class Generator:
    """Answers prompts with a model; the compiled programs are kept between calls."""

    def __init__(
        self,
        recipe: recipe_lib.Recipe,
        model: nnx.Module,
        tokenizer: Tokenizer,
        mesh: jax.sharding.Mesh,
    ):
        """Build upstream's sampler around a model.

        Args:
          recipe: Lengths, cache size and stop tokens.
          model: The policy; weights that it is given later are seen.
          tokenizer: The tokenizer.
          mesh: Devices that hold the model.
        """
        self._recipe = recipe
        self._mesh = mesh
        self.model = model
        self._end_ids = tokenizer.end_ids(recipe.rollout.stop_tokens)
        self._sampler = _Sampler(
            model,
            tokenizer,
            sampler_lib.CacheConfig(
                cache_size=recipe.rollout.cache_size,
                num_layers=recipe.model.num_layers,
                num_kv_heads=recipe.model.num_kv_heads,
                head_dim=recipe.model.head_dim,
            ),
        )

    def __call__(
        self, prompts: Sequence[str], generation: recipe_lib.Generation, key: jax.Array
    ) -> tuple[list[str], list[int]]:
        """Complete prompts.

        Every prompt is padded to the recipe's prompt length, whatever its
        neighbours, so a batch of unequal prompts answers as each would alone.

        Args:
          prompts: [B] formatted prompts.
          generation: Temperature, top-k and top-p.
          key: Raw uint32 PRNG key; it may be donated and must not be used again.

        Returns:
          B texts without stop token, and B counts of tokens before it.
        """
        self._sampler.transformer_state = nnx.variables(self.model, nnx.Param)
        top_k = generation.top_k
        if top_k is not None:
            top_k = min(top_k, self._recipe.model.vocab_size)
        with models.entered(self._mesh):
            output = self._sampler(
                input_strings=list(prompts),
                max_generation_steps=self._recipe.rollout.max_new_tokens,
                max_prompt_length=self._recipe.rollout.max_prompt_length,
                temperature=generation.temperature,
                top_k=top_k,
                top_p=generation.top_p,
                eos_tokens=self._end_ids,
                seed=key,  # type: ignore[arg-type]
            )
        return list(output.text), [len(tokens) for tokens in output.tokens]
