"""`data_shuffle_seed` changes nothing.

Expected: "The seed for shuffling the data": other seeds give other mini-batches, so other
parameters after two batches of two mini-batches.
Got: the same parameters. Only the micro-batches of one optimizer step are put in another
order, and their gradients are summed.
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


def make_learner(seed: int | None) -> Any:
    """Gives a learner for a policy over eight tokens."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    cluster = rl_cluster.RLCluster(
        actor=Table(jnp.zeros((8, 8)).at[:, :2].set(-1e9)),  # neither pad nor end tokens
        critic=Table(jnp.zeros((8, 1))),
        tokenizer=TOKENIZER,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(rl_cluster.Role, mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.sgd(0.1),
                critic_optimizer=optax.sgd(0.1),
                eval_every_n_steps=1,
                max_steps=100,
                mini_batch_size=2,
                train_micro_batch_size=1,
                rollout_micro_batch_size=2,
                compute_logps_micro_batch_size=2,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=2, max_prompt_length=4
            ),
        ),
    )
    return ppo_learner.PPOLearner(
        cluster,
        ppo_learner.PPOConfig(beta=0.0),
        reward_fns=lambda prompts, reward, **_: reward,
        data_shuffle_seed=seed,
    )


def train(seed: int | None) -> jax.Array:
    """Gives the policy's table after two batches, without the excluded columns."""
    learner = make_learner(seed)
    batch = {"prompts": np.array(list("abcd")), "reward": np.array([0.0, 1.0, 5.0, 9.0])}
    learner.train([batch] * 2)
    return learner.rl_cluster.actor_trainer.model.table[:, 2:]


def main() -> bool:
    """Gives whether the defect shows."""
    tables = [train(seed) for seed in (None, 0, 1)]
    moved = float(jnp.abs(tables[0]).max())
    apart = max(float(jnp.abs(table - tables[0]).max()) for table in tables)
    print(f"expected: parameters, which moved by {moved:.3f}, that differ between seeds")
    print(f"got: they differ by {apart:.0e}")
    return moved > 0.01 and apart < 1e-6


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
