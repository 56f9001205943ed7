"""A resumed run with two PPO epochs skips twice the data that was used.

Expected: after a run on batches "a" and "b", a resume over "a" to "f" goes on with "c".
Got: it goes on with "e". The fast-forward counts the trainer's iterations, of which
`num_iterations=2` makes two per batch.
"""

import tempfile
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


def run(batches: str, directory: str) -> list[str]:
    """Trains on one-prompt batches; gives the prompts that were sampled for."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    sgd = optax.sgd(0.1)
    cluster = rl_cluster.RLCluster(
        actor=Table(jnp.zeros((16, 16)).at[:, :2].set(-1e9)),  # neither pad nor end tokens
        critic=Table(jnp.zeros((16, 1))),
        tokenizer=TOKENIZER,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(rl_cluster.Role, mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=sgd,
                critic_optimizer=sgd,
                eval_every_n_steps=1,
                max_steps=100,
                checkpoint_root_directory=directory,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=2, max_prompt_length=4
            ),
        ),
    )
    used: list[str] = []
    learner = ppo_learner.PPOLearner(
        cluster,
        ppo_learner.PPOConfig(beta=0.0, num_iterations=2),
        reward_fns=lambda prompts, **_: used.extend(prompts) or [1.0],
    )
    with mock.patch.object(cluster, "update_critic"):
        learner.train([{"prompts": np.array([prompt])} for prompt in batches])
    return [str(prompt) for prompt in used]


def main() -> bool:
    """Gives whether the defect shows."""
    with tempfile.TemporaryDirectory() as directory:
        first, resumed = run("ab", directory), run("abcdef", directory)
    print(f"expected: after a run on {first}, the resume uses ['c', 'd', 'e', 'f']")
    print(f"got: it uses {resumed}")
    return first == ["a", "b"] and resumed == ["e", "f"]


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
