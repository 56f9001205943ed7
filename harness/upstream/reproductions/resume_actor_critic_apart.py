"""A resume takes an actor and a critic of different steps.

Expected: where the actor's last checkpoint is of step 2 and the critic's of step 1 (the
run was cut between the two saves), an error, or both from step 1.
Got: steps 2 and 1, silently.
"""

import shutil
import tempfile
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
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


def make_learner(directory: str) -> Any:
    """Gives a learner for a policy over eight tokens."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    options = ocp.CheckpointManagerOptions(save_interval_steps=1, max_to_keep=None)
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
                max_steps=2,
                checkpoint_root_directory=directory,
                checkpointing_options=options,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=2, max_prompt_length=4
            ),
        ),
    )
    return ppo_learner.PPOLearner(
        cluster,
        ppo_learner.PPOConfig(beta=0.0),
        reward_fns=lambda prompts, **_: [1.0] * len(prompts),
    )


def main() -> bool:
    """Gives whether the defect shows."""
    with tempfile.TemporaryDirectory() as directory:
        make_learner(directory).train([{"prompts": np.array(["a"])}] * 2)
        shutil.rmtree(f"{directory}/critic/2")
        cluster = make_learner(directory).rl_cluster
    steps = cluster.actor_trainer.train_steps, cluster.critic_trainer.train_steps
    print("expected: actor and critic at steps (1, 1), or an error")
    print(f"got: {steps}")
    return steps == (2, 1)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
