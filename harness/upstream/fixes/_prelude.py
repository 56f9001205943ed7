"""What reproductions share: a model over eight tokens, and PPO around it.

Plain Tunix, JAX, Flax, optax and NumPy: `registry.script` copies what a reproduction uses into a
script that stands alone.
"""

import inspect
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.rl import common, rl_cluster
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import base_rollout, vanilla_rollout
from tunix.sft import metrics_logger

TOKENIZER = types.SimpleNamespace(
    encode=lambda text: [3 + (ord(letter) - ord("a")) % 5 for letter in text],
    decode=str,
    bos_id=lambda: 2,
    eos_id=lambda: 1,
    pad_id=lambda: 0,
)


class Table(nnx.Module):
    """A model whose output at a token is a row of a table, and whose cache is empty."""

    config = types.SimpleNamespace(num_layers=1, num_kv_heads=1, head_dim=1)

    def __init__(self, table: jax.Array):
        self.table = nnx.Param(table)

    def __call__(
        self, tokens: jax.Array, positions: Any = None, cache: Any = None, *_: Any, **__: Any
    ) -> tuple[jax.Array, Any]:
        """Return the rows of the tokens, and the cache as it was."""
        return self.table[tokens], cache

    def init_cache(self, *_: Any) -> dict[str, jax.Array]:
        """Return an empty cache."""
        return {}


def uniform_logits() -> jax.Array:
    """Return logits [8, 8] under which all tokens but pad and stop token are equally likely."""
    return jnp.zeros((8, 8)).at[:, :2].set(-1e9)


def toy_batch(prompts: str, **columns: Any) -> dict[str, Any]:
    """Return a batch with one prompt per letter, and the columns given."""
    return {"prompts": np.array(list(prompts)), **columns}


def toy_rollout_config(**settings: Any) -> base_rollout.RolloutConfig:
    """Return a rollout configuration: up to 2 tokens after prompts of up to 4, by default."""
    return base_rollout.RolloutConfig(
        **{"max_tokens_to_generate": 2, "max_prompt_length": 4, **settings}
    )


def toy_sampler(logits: jax.Array) -> sampler_lib.Sampler:
    """Return a sampler of the policy with these logits, one row per token."""
    return sampler_lib.Sampler(Table(logits), TOKENIZER, sampler_lib.CacheConfig(64, 1, 1, 1))


def toy_rollout(logits: jax.Array) -> vanilla_rollout.VanillaRollout:
    """Return a rollout worker of the policy with these logits, one row per token."""
    return vanilla_rollout.VanillaRollout(
        Table(logits), TOKENIZER, base_rollout.CacheConfig(64, 1, 1, 1)
    )


def toy_cluster(
    *,
    actor: nnx.Module | None = None,
    critic: nnx.Module | None = None,
    reference: nnx.Module | None = None,
    tokenizer: Any = TOKENIZER,
    training: Mapping[str, Any] | None = None,
    rollout: Any = None,
    meshes: Mapping[rl_cluster.Role, jax.sharding.Mesh] | None = None,
) -> Any:
    """Return a cluster on one device, trained by SGD.

    Args:
      actor: The policy; by default the one of `uniform_logits`.
      critic: The critic; by default one that gives 0.
      reference: The reference policy, if there is one.
      tokenizer: The tokenizer.
      training: What differs from the usual training configuration.
      rollout: Tunix's rollout configuration; by default `toy_rollout_config()`.
      meshes: Meshes of the roles that are elsewhere.
    """
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    settings: dict[str, Any] = {
        "actor_optimizer": optax.sgd(0.1),
        "critic_optimizer": optax.sgd(0.1),
        "eval_every_n_steps": 1,
        **(training or {}),
    }
    return rl_cluster.RLCluster(
        actor=actor or Table(uniform_logits()),
        critic=critic or Table(jnp.zeros((8, 1))),
        reference=reference,
        tokenizer=tokenizer,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh={**dict.fromkeys(rl_cluster.Role, mesh), **(meshes or {})},
            training_config=rl_cluster.RLTrainingConfig(**settings),
            rollout_config=rollout or toy_rollout_config(),
        ),
    )


def reward_of_one(prompts: Any, **_: Any) -> list[float]:
    """Return a reward of 1 for each prompt."""
    return [1.0] * len(prompts)


def reward_column(reward: Any, **_: Any) -> Any:
    """Return the rewards that stand in the batch."""
    return reward


def toy_learner(
    reward_fns: Any = reward_of_one,
    *,
    ppo: Mapping[str, Any] | None = None,
    data_shuffle_seed: int | None = None,
    **cluster: Any,
) -> Any:
    """Return a PPO learner on one device, without a penalty on the divergence.

    Args:
      reward_fns: The reward function, or several.
      ppo: What differs from the usual PPO configuration.
      data_shuffle_seed: Seed of the order of micro-batches.
      **cluster: Arguments of `toy_cluster`.
    """
    return ppo_learner.PPOLearner(
        toy_cluster(**cluster),
        ppo_learner.PPOConfig(**{"beta": 0.0, **(ppo or {})}),
        reward_fns=reward_fns,
        data_shuffle_seed=data_shuffle_seed,
    )


def saving_each_step(directory: str) -> dict[str, Any]:
    """Return training settings that save a checkpoint after every step, and delete none."""
    options = ocp.CheckpointManagerOptions(save_interval_steps=1, max_to_keep=None)
    return {"checkpoint_root_directory": directory, "checkpointing_options": options}


def toy_example(tokens: int, old: float, advantage: float) -> ppo_learner.TrainExample:
    """Return a sequence of 4 tokens, the first `tokens` of which count, of old log-prob `old`."""
    mask = jnp.arange(4)[None] < tokens
    kind: Any = ppo_learner.TrainExample
    return kind(
        prompt_ids=jnp.array([[2, 3]]),
        prompt_mask=jnp.ones((1, 2), "int32"),
        completion_ids=jnp.where(mask, 4, 0),
        completion_mask=mask,
        advantages=jnp.full((1, 4), advantage),
        ref_per_token_logps=None,
        old_per_token_logps=jnp.full((1, 4), old),
        returns=None,
        old_values=None,
    )


def padded_example(old: float) -> common.TrainExample:
    """Return a sequence of one token and one pad, with the old log-prob `old` at the pad."""
    kind: Any = common.TrainExample
    return kind(
        prompt_ids=jnp.array([[3]]),
        prompt_mask=jnp.array([[1]]),
        completion_ids=jnp.array([[5, 0]]),
        completion_mask=jnp.array([[1, 0]]),
        advantages=jnp.array([[1.0, 1.0]]),
        ref_per_token_logps=None,
        old_per_token_logps=jnp.array([[-2.0, old]]),
    )


def policy_loss(model: nnx.Module, train_example: common.TrainExample) -> tuple[jax.Array, Any]:
    """Return Tunix's policy loss of an example under the usual PPO configuration, and figures."""
    function = ppo_learner.registry.get("policy_loss_fn", "ppo")
    config = ppo_learner.PPOConfig()
    if "algo_config" in inspect.signature(function).parameters:
        numbers: dict[str, Any] = {"algo_config": config}
    else:  # 0.1.6 takes the numbers one by one
        names = ("epsilon_low", "epsilon_high", "epsilon_c", "entropy_coef")
        numbers = {name: getattr(config, name) for name in names}
    return function(model, train_example, **numbers, pad_id=0, eos_id=1)


def logging_to(backend: Any) -> metrics_logger.MetricsLoggerOptions:
    """Return options of a metrics logger that writes to `backend` alone."""
    make: Any = metrics_logger.MetricsLoggerOptions  # 0.1.7 named the argument anew
    try:
        return make(log_dir="", backend_kwargs={"custom_backend": [lambda: backend]})
    except TypeError:
        return make(log_dir="", backend_factories=[lambda: backend])
