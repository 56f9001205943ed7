"""A policy differs from itself: reference log-probs use another temperature.

Expected: with a reference equal to the actor, the KL penalty is 0.
Got: `get_ref_per_token_logps` uses the rollout's temperature and
`get_old_per_token_logps` uses 1, so at temperature 0.7 the penalty is not 0.
"""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.rl import common, rl_cluster
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


def penalty(temperature: float) -> float:
    """Gives the mean KL of a policy to its copy."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    sgd = optax.sgd(0.1)
    logits = jax.random.normal(jax.random.key(0), (8, 8))
    cluster = rl_cluster.RLCluster(
        actor=Table(logits),
        reference=Table(logits),
        tokenizer=TOKENIZER,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(rl_cluster.Role, mesh),
            training_config=rl_cluster.RLTrainingConfig(actor_optimizer=sgd, eval_every_n_steps=1),
            rollout_config=base_rollout.RolloutConfig(temperature=temperature),
        ),
    )
    prompts, completions = jnp.array([[2, 3], [2, 4]]), jnp.array([[4, 5, 6], [7, 5, 3]])
    old = cluster.get_old_per_token_logps(prompts, completions)
    reference = cluster.get_ref_per_token_logps(prompts, completions, pad_id=0, eos_id=1)
    return float(common.compute_kl_divergence(old, reference).mean())


def main() -> bool:
    """Gives whether the defect shows."""
    control, kl = penalty(1.0), penalty(0.7)
    print("expected: KL of two equal policies: 0 at temperatures 1 and 0.7")
    print(f"got: {control:.6f} at 1 and {kl:.6f} at 0.7")
    return control < 1e-6 < 1e-3 < kl


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
