"""Advantages depend on micro-batch sizes that should only affect speed.

Expected: `rollout_micro_batch_size` and `compute_logps_micro_batch_size` do not change
the advantages of a batch.
Got: advantages are whitened over lcm(rollout, log-prob micro-batch) sequences.
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


def advantages(micro_batch: int) -> np.ndarray:
    """Gives the first advantages of four prompts with rewards 0 to 3, as they reach the update."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    sgd = optax.sgd(0.1)
    cluster = rl_cluster.RLCluster(
        actor=Table(1e3 * jax.nn.one_hot(jnp.full(8, 7), 8)),  # always writes token 7
        critic=Table(jnp.zeros((8, 1))),
        tokenizer=TOKENIZER,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(rl_cluster.Role, mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=sgd,
                critic_optimizer=sgd,
                eval_every_n_steps=1,
                max_steps=1,
                mini_batch_size=4,
                train_micro_batch_size=2,
                rollout_micro_batch_size=micro_batch,
                compute_logps_micro_batch_size=micro_batch,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=2, max_prompt_length=4
            ),
        ),
    )
    learner = ppo_learner.PPOLearner(
        cluster, ppo_learner.PPOConfig(beta=0.0), reward_fns=lambda prompts, reward, **_: reward
    )
    with mock.patch.multiple(
        cluster, update_actor=mock.DEFAULT, update_critic=mock.DEFAULT
    ) as update:
        learner.train([{"prompts": np.array(list("abcd")), "reward": np.arange(4.0)}])
    calls = update["update_actor"].call_args_list
    return np.concatenate([call.args[0][0].advantages[:, 0] for call in calls])


def main() -> bool:
    """Gives whether the defect shows."""
    whole, halves = advantages(4), advantages(2)
    print(f"expected: advantages of {whole.round(2)} with micro-batches of 4 and of 2")
    print(f"got: {halves.round(2)} with micro-batches of 2")
    return not np.allclose(whole, halves, atol=0.01)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
