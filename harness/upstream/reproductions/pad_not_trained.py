"""A pad that the policy draws is no token to the learner.

Expected: of a completion of four tokens, the second of them the pad, all four are
trained on, and the reward of 7 is on the last.
Got: three, since the mask leaves out every pad id; the reward is on the third token,
whose place is found by counting those that the mask keeps.
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
    """Gives a learner for a policy that writes 5, 0, 6, 7 after any prompt."""
    # From letters and from 0 on, what comes next is certain; 0 is the pad.
    next_token = jnp.full((8, 8), -1e9).at[[2, 3, 4, 5, 0, 6], [5, 5, 5, 0, 6, 7]].set(0.0)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    cluster = rl_cluster.RLCluster(
        actor=Table(next_token),
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
                max_tokens_to_generate=4, max_prompt_length=4
            ),
        ),
    )
    return ppo_learner.PPOLearner(cluster, ppo_learner.PPOConfig(beta=0.0), reward_fns=reward)


def main() -> bool:
    """Gives whether the defect shows."""
    learner = make_learner(lambda prompts, **_: [7.0] * len(prompts))
    example = learner._generate_and_compute_advantage({"prompts": np.array(["a", "b"])})
    drawn, mask = example.completion_ids[0].tolist(), example.completion_mask[0]
    returns = np.array(example.returns[0])
    print("expected: tokens [5, 0, 6, 7], 4 of them trained on, return 7.0 on the last")
    print(f"got: tokens {drawn}, {int(mask.sum())} trained on, returns {returns.tolist()}")
    return drawn == [5, 0, 6, 7] and int(mask.sum()) == 3 and returns[3] != 7


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
