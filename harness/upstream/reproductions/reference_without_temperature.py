"""Reference log-probs are taken at temperature 1, whatever the rollout's.

Expected: at a rollout temperature of 0.5, the reference's log-probs are those of
its logits over 0.5.
Got: those of its logits as they are.
"""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.rl import rl_cluster
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


def reference_log_probs(logits: jax.Array, ids: jax.Array, temperature: float) -> np.ndarray:
    """Gives the reference's log-probs of a completion, through the cluster."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    sgd = optax.sgd(0.1)
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
    return np.array(cluster.get_ref_per_token_logps(ids[:, :2], ids[:, 2:], pad_id=0, eos_id=1))


def main() -> bool:
    """Gives whether the defect shows."""
    logits = jax.random.normal(jax.random.key(0), (8, 8))
    ids = jnp.array([[2, 3, 4, 5, 6]])
    found = reference_log_probs(logits, ids, 0.5)

    def at(temperature: float) -> np.ndarray:
        chances = jax.nn.log_softmax(logits[ids[0, 1:-1]] / temperature)
        return np.array(jnp.take_along_axis(chances, ids[0, 2:, None], axis=1)[None, :, 0])

    print("expected: the reference's log-probs at the rollout's temperature, 0.5")
    far, near = np.abs(found - at(0.5)).max(), np.abs(found - at(1.0)).max()
    print(f"got: off by {far:.4f} from those at 0.5, by {near:.6f} from those at 1")
    return bool(near < 1e-5 < 1e-2 < far)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
