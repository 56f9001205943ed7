"""A fractional reward is lost on its way to the returns.

Expected: with beta = 0 and gamma = lambda = 1, every token's return is the reward, 0.5.
Got: 0.0. PPOLearner builds the reward tensor with `zeros_like(completion_ids)`, which
is int32, so the scattered reward is truncated.
"""

import types
from typing import Any

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
                actor_optimizer=sgd, critic_optimizer=sgd, eval_every_n_steps=1
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=3, max_prompt_length=4, kv_cache_size=8
            ),
        ),
    )
    learner = ppo_learner.PPOLearner(
        cluster,
        ppo_learner.PPOConfig(beta=0.0, gamma=1.0, gae_lambda=1.0),
        reward_fns=lambda prompts, **_: [0.5] * len(prompts),
    )
    example = learner._generate_and_compute_advantage({"prompts": ["a"]})
    returns = np.asarray(example.returns)[0]
    print("expected: returns of 0.5")
    print(f"got: returns of {returns.tolist()}")
    return bool(np.any(returns != 0.5))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
