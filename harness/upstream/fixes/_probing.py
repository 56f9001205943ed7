"""What probes share: Tunix's own code, on inputs made by hand.

A probe needs no model and takes well under a second.
"""

import contextlib
import types
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.rl import common, rl_cluster
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import base_rollout

from harness.upstream import compat, rebind

PAD = 0
END = 1
WORD = 7


class Tokenizer:
    """The least tokenizer that Tunix accepts."""

    def encode(self, text: str) -> list[int]:
        return [WORD] * len(text)

    def decode(self, ids: list[int]) -> str:
        return " ".join(str(token) for token in ids)

    def bos_id(self) -> int:
        return 2

    def eos_id(self) -> int:
        return END

    def pad_id(self) -> int:
        return PAD


def sampler_that_wrote(completion: list[int], seeds: list[Any]) -> sampler_lib.Sampler:
    """Return a sampler whose compiled programs wrote `completion` after each prompt.

    Args:
      completion: Ids of the tokens.
      seeds: Takes the data of the key of each call.
    """
    sampler = object.__new__(sampler_lib.Sampler)
    sampler.tokenizer = sampler_lib.tok_adapter.TokenizerAdapter(Tokenizer())
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


def rollout_config() -> base_rollout.RolloutConfig:
    """Return a configuration for `sampler_that_wrote`, which stops at `END`."""
    return base_rollout.RolloutConfig(
        max_tokens_to_generate=4, max_prompt_length=4, kv_cache_size=64, eos_tokens=[END]
    )


def one_group(
    mode: rl_cluster.Mode, completion: tuple[int, int, int] = (WORD, WORD, END)
) -> tuple[Any, dict[str, Any]]:
    """Return the train example of one completion, and the arguments of the call for it."""
    output = base_rollout.RolloutOutput(
        text=["a"],
        logits=[],
        tokens=[np.array(completion)],
        left_padded_prompt_tokens=np.full((1, 2), WORD),
        logprobs=None,
    )
    zeros = jnp.zeros((1, 3))
    asked: dict[str, Any] = {}

    def generate(**kwargs: Any) -> Any:
        asked.update(kwargs)
        return output

    cluster = types.SimpleNamespace(
        cluster_config=types.SimpleNamespace(
            rollout_config=base_rollout.RolloutConfig(max_tokens_to_generate=3)
        ),
        rollout=types.SimpleNamespace(pad_id=lambda: PAD, eos_id=lambda: END),
        generate=generate,
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
        cast(Any, learner), {"prompts": ["a"]}, mode
    )
    return example, asked


def log_prob_arguments(*, reference: bool) -> dict[str, Any]:
    """Return the arguments by name of Tunix's call for the log-probs of the policy or reference."""
    asked: dict[str, Any] = {}

    def log_probs(*args: Any, **kwargs: Any) -> jax.Array:
        asked.update(kwargs)
        return jnp.zeros((1, 1))

    worker = types.SimpleNamespace(model=lambda: None, get_per_token_logps=log_probs)
    config = base_rollout.RolloutConfig(temperature=0.5)
    cluster = types.SimpleNamespace(
        rollout=worker,
        inference_worker=types.SimpleNamespace(
            get_model=lambda role: None, get_ref_per_token_logps=log_probs
        ),
        cluster_config=types.SimpleNamespace(
            offload_to_cpu=False, training_config=types.SimpleNamespace(data_sharding_axis=())
        ),
        get_rollout_config=lambda **kwargs: config,
        _get_mesh_and_logical_axis_rules_cm=lambda role: contextlib.nullcontext(),
        _maybe_load_model_from_cpu=lambda *args: None,
        _maybe_offload_model_to_cpu=lambda *args: None,
    )
    ids = jnp.zeros((1, 1), jnp.int32)
    ask: Any = rl_cluster.RLCluster
    if reference:
        ask.get_ref_per_token_logps(cluster, ids, ids, PAD, END)
    else:
        ask.get_old_per_token_logps(cluster, ids, ids)
    return asked


def loss_of_log_probs(
    log_probs: jax.Array, advantages: jax.Array, mask: jax.Array, old: jax.Array | None = None
) -> jax.Array:
    """Return Tunix's policy loss of log-probs [B, L] that no model made.

    Args:
      log_probs: Current log-probs.
      advantages: Advantages.
      mask: Which tokens count.
      old: Old log-probs; 0 by default.
    """

    def given(*args: Any, **kwargs: Any) -> tuple[jax.Array, jax.Array]:
        return log_probs, jnp.zeros((*log_probs.shape, 2))

    function = rebind.rebind(
        compat.policy_loss_fn(),
        common=rebind.Overlay(common, compute_per_token_logps=given),
    )
    example = types.SimpleNamespace(
        prompt_ids=jnp.zeros((len(mask), 1), jnp.int32),
        completion_ids=jnp.zeros(mask.shape, jnp.int32),
        completion_mask=mask,
        advantages=advantages,
        old_per_token_logps=jnp.zeros(mask.shape) if old is None else old,
        ref_per_token_logps=None,
    )
    numbers = compat.numbers_of(ppo_learner.PPOConfig(beta=0.0))
    return function(nnx.Dict(), example, **numbers, pad_id=PAD, eos_id=END)[0]


def resumed_learner(critic_steps: int = 4) -> ppo_learner.PPOLearner:
    """Return a learner of two epochs, whose actor resumes 4 iterations in."""
    critic = _resumed_trainer(critic_steps)
    trainer = _resumed_trainer(4)
    role = rl_cluster.Role
    cluster = types.SimpleNamespace(
        actor_trainer=trainer,
        critic_trainer=critic,
        rollout=types.SimpleNamespace(model=lambda: None),
        inference_worker=types.SimpleNamespace(_models={"critic": critic}),
        cluster_config=types.SimpleNamespace(
            role_to_mesh={role.ACTOR: 0, role.ROLLOUT: 0},
            training_config=types.SimpleNamespace(
                rollout_micro_batch_size=1, compute_logps_micro_batch_size=1
            ),
        ),
    )
    learner = ppo_learner.PPOLearner(
        rl_cluster=cast(Any, cluster),
        ppo_config=ppo_learner.PPOConfig(num_iterations=2, beta=0.0),
        reward_fns=lambda **kwargs: [],
        data_shuffle_seed=7,
    )
    learner.executor.shutdown()
    return learner


def _resumed_trainer(iter_steps: int) -> Any:
    return types.SimpleNamespace(
        iter_steps=iter_steps,
        train_steps=iter_steps,
        restored_global_step=lambda: 1,
        model=None,
        loss_fn=None,
        with_loss_fn=lambda *args, **kwargs: None,
        with_gen_model_input_fn=lambda *args: None,
        with_rl_metrics_to_log=lambda *args: None,
    )


class Row(nnx.Module):
    """A model with one parameter."""

    def __init__(self) -> None:
        self.weights = nnx.Param(jnp.zeros(2))
