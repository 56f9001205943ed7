"""A batch is not sampled at once: each mini-batch is sampled after the last one's update.

Expected: a batch of four prompts is sampled from one policy, then cut into two
mini-batches of two for two updates ("the rollout phase happens on a larger batch").
Got: the second mini-batch is sampled from the policy updated on the first.
"""

import types
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.rl import rl_cluster
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import base_rollout

TOKENIZER = types.SimpleNamespace(
    encode=lambda text: [3], decode=str, bos_id=lambda: 2, eos_id=lambda: 1, pad_id=lambda: 0
)


class Table(nnx.Module):
    """A model without a cache, whose output at a token is a row of a table."""

    config = types.SimpleNamespace(num_layers=0, num_kv_heads=1, head_dim=1)

    def __init__(self, table: jax.Array):
        self.table = nnx.Param(table)

    def __call__(self, tokens: jax.Array, *_: Any, **__: Any) -> tuple[jax.Array, dict]:
        """Gives an output and an empty cache."""
        return self.table[tokens], {}


def main() -> bool:
    """Gives whether the defect shows."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    sgd = optax.sgd(0.1)
    cluster = rl_cluster.RLCluster(
        actor=Table(jnp.zeros((8, 8)).at[:, :2].set(-1e9)),  # neither pad nor end tokens
        critic=Table(jnp.zeros((8, 1))),
        tokenizer=TOKENIZER,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(rl_cluster.Role, mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=sgd,
                critic_optimizer=sgd,
                eval_every_n_steps=1,
                max_steps=2,
                mini_batch_size=2,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=2, max_prompt_length=4
            ),
        ),
    )
    learner = ppo_learner.PPOLearner(
        cluster, ppo_learner.PPOConfig(beta=0.0), reward_fns=lambda prompts, reward, **_: reward
    )
    updates: list[int] = []
    generate = cluster.rollout.generate

    def recorded(prompts: list[str], config: Any) -> Any:
        updates.extend([cluster.actor_trainer.train_steps] * len(prompts))
        return generate(prompts, config)

    with mock.patch.object(cluster.rollout, "generate", recorded):
        learner.train([{"prompts": np.array(list("abcd")), "reward": np.arange(4.0)}])
    print("expected: updates before each prompt of the batch is sampled: [0, 0, 0, 0]")
    print(f"got: {updates}")
    return any(updates)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
