"""The reward of a completion that ends at once reaches nobody.

Expected: a policy that stops at its first token, for a reward of 7, has a token with
return 7.
Got: a row without valid tokens and returns of 0. The reward is put on a masked place.
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
    encode=lambda text: [ord(letter) - ord("a") + 3 for letter in text],
    decode=str,
    bos_id=lambda: 2,
    eos_id=lambda: 1,
    pad_id=lambda: 0,
)


class Table(nnx.Module):
    """A model whose output at a token is a row of a table."""

    config = types.SimpleNamespace(num_layers=1, num_kv_heads=1, head_dim=1)

    def __init__(self, table: jax.Array):
        self.table = nnx.Param(table)

    def __call__(
        self, tokens: jax.Array, positions: Any = None, cache: Any = None, *_: Any, **__: Any
    ) -> tuple[jax.Array, Any]:
        """Gives the logits and the cache."""
        return self.table[tokens], cache

    def init_cache(self, *_: Any) -> dict[str, jax.Array]:
        """Gives an empty cache."""
        return {}


def make_learner(reward: Any) -> Any:
    """Gives a learner for a policy over eight tokens."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    cluster = rl_cluster.RLCluster(
        actor=Table(jnp.full((8, 8), -1e9).at[:, 1].set(0.0)),
        critic=Table(jnp.zeros((8, 1))),
        tokenizer=TOKENIZER,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(rl_cluster.Role, mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.sgd(0.1),
                critic_optimizer=optax.sgd(0.1),
                eval_every_n_steps=1,
                max_steps=1,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=2, max_prompt_length=4
            ),
        ),
    )
    return ppo_learner.PPOLearner(cluster, ppo_learner.PPOConfig(beta=0.0), reward_fns=reward)


def main() -> bool:
    """Gives whether the defect shows."""
    learner = make_learner(lambda prompts, **_: [7.0] * len(prompts))
    example = learner._generate_and_compute_advantage({"prompts": np.array(["a", "b"])})
    returns = example.returns[0].tolist()
    valid = int(example.completion_mask[0].sum())
    print("expected: 1 valid token, with return 7.0")
    print(f"got: {valid} valid tokens, returns {returns}")
    return valid == 0 and not any(returns)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
