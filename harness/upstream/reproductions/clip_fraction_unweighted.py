"""The share of clipped tokens is a mean over micro-batches, whatever their sizes.

Expected: of 1 clipped token in one micro-batch and 3 unclipped in another, a clip
fraction of 0.25.
Got: 0.5. The critic's `vf_clipfrac` and `vpred_mean` are averaged in the same way.
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


def example(tokens: int, old: float, advantage: float) -> ppo_learner.TrainExample:
    """Gives a row of `tokens` valid tokens with the old log-probability `old`."""
    mask = jnp.arange(4)[None] < tokens
    kind: Any = ppo_learner.TrainExample
    return kind(
        prompt_ids=jnp.array([[2, 3]]),
        prompt_mask=jnp.ones((1, 2), "int32"),
        completion_ids=jnp.where(mask, 4, 0),
        completion_mask=mask,
        advantages=jnp.full((1, 4), advantage),
        ref_per_token_logps=None,
        old_per_token_logps=jnp.full((1, 4), old),
        returns=None,
        old_values=None,
    )


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
                mini_batch_size=2,
                train_micro_batch_size=1,
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
    learner = make_learner()
    trainer = learner.rl_cluster.actor_trainer
    log_prob = -float(np.log(6))  # of any of the six tokens
    trainer.train([example(1, log_prob - 1.0, 1.0), example(3, log_prob, 1.0)])
    trainer.close()
    history = trainer.metrics_logger.get_metric_history("actor", "pg_clipfrac", "train")
    print("expected: 0.25")
    print(f"got: {history[0]:.2f}")
    return bool(abs(history[0] - 0.5) < 1e-6)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
