"""A cluster copies the policy to the host, for log-probs that PPO never asks for.

Expected: while PPO trains a policy that its rollout shares, the weights exist once.
Got: a second copy is stored when the cluster is built. `get_actor_per_token_logps` alone
reads it, and `PPOLearner` asks the rollout worker for its log-probs instead.
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
        """Return an output and an empty cache."""
        return self.table[tokens], {}


def main() -> bool:
    """Return whether the issue shows."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    sgd = optax.sgd(0.1)
    cluster = rl_cluster.RLCluster(
        actor=Table(jnp.zeros((8, 8)).at[:, :2].set(-1e9)),  # neither pad nor end tokens
        critic=Table(jnp.zeros((8, 1))),
        tokenizer=TOKENIZER,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(rl_cluster.Role, mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=sgd, critic_optimizer=sgd, eval_every_n_steps=1, max_steps=1
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=2, max_prompt_length=4
            ),
        ),
    )
    copy: Any = getattr(cluster, "_anchor_policy_state", None)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(copy))
    cluster._anchor_policy_state = None  # nothing below misses it
    ppo_learner.PPOLearner(
        cluster, ppo_learner.PPOConfig(beta=0.0), reward_fns=lambda prompts, reward, **_: reward
    ).train([{"prompts": np.array(list("abcd")), "reward": np.arange(4.0)}])
    print("expected: bytes of the policy that are stored a second time: 0")
    print(f"got: {size}, and training without them ends after {cluster.global_steps} step")
    return size > 0


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
