"""A resumed run shuffles its micro-batches as the run that it resumes did at first.

Expected: `data_shuffle_seed` goes on where the checkpoint was made.
Got: it starts anew, so a resumed run is another than the one that was never stopped.
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


def run(batches: str, directory: str) -> list[int]:
    """Trains on one-prompt batches; gives the seed of the order before and after."""
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
    learner = ppo_learner.PPOLearner(
        cluster,
        ppo_learner.PPOConfig(beta=0.0),
        reward_fns=lambda prompts, **_: [1.0],
        data_shuffle_seed=7,
    )
    state: Any = learner
    before = int(state._data_shuffle_seed[1])
    with mock.patch.object(cluster, "update_critic"):
        learner.train([{"prompts": np.array([prompt])} for prompt in batches])
    return [before, int(state._data_shuffle_seed[1])]


def main() -> bool:
    """Gives whether the defect shows."""
    with tempfile.TemporaryDirectory() as directory:
        (start, end), (resumed, _) = run("ab", directory), run("abcd", directory)
    print(f"expected: a resume goes on with seed {end}")
    print(f"got: it goes on with {resumed}, with which the first run began: {start}")
    return start == resumed != end


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
