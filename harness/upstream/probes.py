"""Small experiments on the installed Tunix: is a known defect still there?

Each runs upstream's own code on inputs made by hand, needs no model, and takes
well under a second.
"""

import types
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from tunix.generate import sampler as sampler_lib
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import base_rollout, vanilla_rollout

_PAD, _END, _WORD = 0, 1, 7


class _Tokenizer:
    """The least tokenizer that upstream accepts."""

    def encode(self, text: str) -> list[int]:
        return [_WORD] * len(text)

    def decode(self, ids: list[int]) -> str:
        return " ".join(str(token) for token in ids)

    def bos_id(self) -> int:
        return 2

    def eos_id(self) -> int:
        return _END

    def pad_id(self) -> int:
        return _PAD


def _sampler_that_wrote(completion: list[int], seeds: list[Any]) -> sampler_lib.Sampler:
    """Gives a sampler whose compiled programs wrote `completion` for each prompt."""
    sampler = object.__new__(sampler_lib.Sampler)
    sampler.tokenizer = sampler_lib.tok_adapter.TokenizerAdapter(_Tokenizer())
    sampler.image_processor = None
    sampler.cache_config = sampler_lib.CacheConfig(64, 1, 1, 2)
    stub = cast(Any, sampler)
    stub._flattened_transformer_state = []
    stub._compiled_prefill_fn = lambda params, state, *args, **kwargs: state
    stub._compiled_decode_fn = lambda params, state: state

    def init_sample_state(all_input_ids: jax.Array, *, seed: Any, **kwargs: Any) -> Any:
        seeds.append(np.asarray(jax.random.key_data(seed)))
        rows = [[*row, *completion] for row in np.asarray(all_input_ids).tolist()]
        return types.SimpleNamespace(
            token_buffer=jnp.array(rows), logits_buffer=None, logprobs_buffer=None, sampling_mode=""
        )

    stub.init_sample_state = init_sample_state
    return sampler


def _rollout_config() -> base_rollout.RolloutConfig:
    return base_rollout.RolloutConfig(
        max_tokens_to_generate=4, max_prompt_length=4, kv_cache_size=64, eos_tokens=[_END]
    )


def end_token_dropped() -> bool:
    """Does a completion lack the end token that was sampled?"""
    sampler = _sampler_that_wrote([_WORD, _WORD, _END, _PAD], [])
    rollout = object.__new__(vanilla_rollout.VanillaRollout)
    rollout._sampler = sampler
    output = rollout.generate(["ab"], _rollout_config())
    return _END not in np.asarray(output.tokens[0]).tolist()


def noise_repeats() -> bool:
    """Do two generations without a configured seed draw the same noise?"""
    seeds: list[Any] = []
    rollout = object.__new__(vanilla_rollout.VanillaRollout)
    rollout._sampler = _sampler_that_wrote([_WORD, _END, _PAD, _PAD], seeds)
    rollout.generate(["ab"], _rollout_config())
    rollout.generate(["ab"], _rollout_config())
    return bool(np.array_equal(seeds[0], seeds[1]))


def rewards_truncated() -> bool:
    """Is a reward of one half lost on its way to the returns?"""
    tokens = np.array([_WORD, _WORD, _END])
    output = base_rollout.RolloutOutput(
        text=["a"],
        logits=[],
        tokens=[tokens],
        left_padded_prompt_tokens=np.full((1, 2), _WORD),
        logprobs=None,
    )
    zeros = jnp.zeros((1, 3))
    cluster = types.SimpleNamespace(
        cluster_config=types.SimpleNamespace(
            rollout_config=base_rollout.RolloutConfig(max_tokens_to_generate=3)
        ),
        rollout=types.SimpleNamespace(pad_id=lambda: _PAD, eos_id=lambda: _END),
        generate=lambda **kwargs: output,
        get_old_per_token_logps=lambda **kwargs: zeros,
        get_values=lambda **kwargs: jnp.zeros((1, 5)),
        buffer_metrics=lambda *args, **kwargs: None,
    )
    learner = types.SimpleNamespace(
        rl_cluster=cluster,
        algo_config=ppo_learner.PPOConfig(beta=0.0, gamma=1.0, gae_lambda=1.0),
        metric_fns=[],
        _use_reward_model=False,
        _rollout_micro_batch_size=1,
        _compute_logps_micro_batch_size=1,
        _compute_rewards=lambda **kwargs: np.array([0.5], np.float32),
    )
    example = ppo_learner.PPOLearner._generate_and_compute_advantage(
        cast(Any, learner), {"prompts": ["a"]}
    )
    return bool(np.asarray(example.returns)[0, -1] != 0.5)
