"""A prompt longer than `max_prompt_length` widens its micro-batch only, and breaks the batch.

Expected: "The prompt will be padded/truncated to this length" (RolloutConfig), so two
rollout micro-batches with max_prompt_length=4 have prompts 4 wide.
Got: 8 and 4 wide; joining them fails.
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


def make_learner() -> Any:
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
                max_steps=1,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=2, max_prompt_length=4
            ),
        ),
    )
    return ppo_learner.PPOLearner(
        cluster, ppo_learner.PPOConfig(beta=0.0), reward_fns=lambda prompts, **_: [1.0]
    )


def main() -> bool:
    """Gives whether the defect shows."""
    cluster = make_learner().rl_cluster
    widths = [
        cluster.generate([text]).left_padded_prompt_tokens.shape[1] for text in ("abcde", "b")
    ]
    try:
        cluster.generate(["abcde", "b"], micro_batch_size=1)
        error = "none"
    except ValueError as raised:
        error = str(raised)
    print("expected: prompts [4, 4] wide, error: none")
    print(f"got: {widths} wide, error: {error}")
    return widths == [8, 4] and error != "none"


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
