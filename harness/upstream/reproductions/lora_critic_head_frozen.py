"""The head of a critic with LoRA is never trained.

Expected: with adapters on the critic's frozen body and a new value head, both the
adapters and the head are trained.
Got: the adapters alone. The trainer differentiates LoRA parameters only, and neither
updates nor saves the randomly initialized head.
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


class Critic(nnx.Module):
    """A frozen embedding with an adapter, and a value head."""

    def __init__(self):
        self.embedding = nnx.Param(jax.random.normal(jax.random.key(0), (8, 4)))
        self.adapter_in = nnx.LoRAParam(jnp.full((4, 2), 0.1))
        self.adapter_out = nnx.LoRAParam(jnp.zeros((2, 4)))
        self.head = nnx.Param(jnp.ones((4, 1)))

    def __call__(self, tokens: jax.Array, *_: Any, **__: Any) -> tuple[jax.Array, None]:
        """Gives the values."""
        body = self.embedding[...][tokens]
        body = body + body @ self.adapter_in[...] @ self.adapter_out[...]
        return body @ self.head[...], None


def make_learner() -> Any:
    """Gives a learner for a policy over eight tokens."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    cluster = rl_cluster.RLCluster(
        actor=Table(jnp.zeros((8, 8)).at[:, :2].set(-1e9)),  # neither pad nor end tokens
        critic=Critic(),
        tokenizer=TOKENIZER,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(rl_cluster.Role, mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.sgd(0.1),
                critic_optimizer=optax.sgd(0.1),
                eval_every_n_steps=1,
                max_steps=2,
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
    learner = make_learner()
    critic = learner.rl_cluster.critic_trainer.model
    before = critic.adapter_out[...].copy(), critic.head[...].copy()
    learner.train([{"prompts": np.array(["a", "b"])}] * 2)
    adapter = bool(jnp.any(critic.adapter_out[...] != before[0]))
    head = bool(jnp.any(critic.head[...] != before[1]))
    print("expected: adapter trained: True, head trained: True")
    print(f"got: adapter trained: {adapter}, head trained: {head}")
    return adapter and not head


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
