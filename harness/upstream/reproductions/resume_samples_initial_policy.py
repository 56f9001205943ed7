"""A resumed run with its rollout on another mesh samples from the initial policy.

Expected: after a resume the rollout has the weights of the restored actor.
Got: those that the actor had before training, until the first batch is done: its
completions and old log-probabilities are of a policy that is no longer there.
"""

import tempfile
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

jax.config.update("jax_num_cpu_devices", 2)

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


def make_learner(directory: str) -> Any:
    """Gives a learner for a policy over eight tokens."""
    meshes = [jax.sharding.Mesh(np.array([device]), ("fsdp",)) for device in jax.devices()]
    cluster = rl_cluster.RLCluster(
        actor=Table(jnp.zeros((8, 8)).at[:, :2].set(-1e9)),  # neither pad nor end tokens
        critic=Table(jnp.zeros((8, 1))),
        tokenizer=TOKENIZER,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(rl_cluster.Role, meshes[0])
            | {rl_cluster.Role.ROLLOUT: meshes[1]},
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.sgd(0.5),
                critic_optimizer=optax.sgd(0.5),
                eval_every_n_steps=1,
                max_steps=1,
                checkpoint_root_directory=directory,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=2, max_prompt_length=4
            ),
        ),
    )
    return ppo_learner.PPOLearner(
        cluster, ppo_learner.PPOConfig(beta=0.0), reward_fns=lambda prompts, **_: [0.0, 1.0]
    )


def main() -> bool:
    """Gives whether the defect shows."""
    with tempfile.TemporaryDirectory() as directory:
        make_learner(directory).train([{"prompts": np.array(["a", "b"])}])
        cluster = make_learner(directory).rl_cluster
    actor, sampled = cluster.actor_trainer.model.table, cluster.rollout.model().table
    moved = float(np.abs(np.array(actor[...])[:, 2:]).max())
    apart = float(np.abs(np.array(actor[...]) - np.array(sampled[...])).max())
    print(f"expected: rollout and restored actor, which moved by {moved:.3f}, differ by 0.000")
    print(f"got: they differ by {apart:.3f}")
    return apart == moved > 0.0


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
