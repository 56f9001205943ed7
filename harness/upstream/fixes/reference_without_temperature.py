"""Reference log-probs are taken at temperature 1, whatever the rollout's.

Expected: at a rollout temperature of 0.5, the reference's log-probs are those of
its logits over 0.5.
Got: those of its logits as they are.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tunix.rl.inference import inference_worker

from harness.upstream.engine import points
from harness.upstream.engine import temperature as temperature_lib
from harness.upstream.fixes._prelude import Table, toy_cluster, toy_rollout_config
from harness.upstream.fixes._probing import log_prob_arguments
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether the reference's log-probs are asked for without the rollout's temperature."""
    return "temperature" not in log_prob_arguments(reference=True)


ISSUE = KnownIssue(
    id="reference-without-temperature",
    title="Reference log-probs are taken at 1, whatever the rollout's temperature.",
    where="tunix/rl/inference/inference_worker.py:63",
    effect=(
        "As log-prob-temperature: the divergence is that of two policies neither of which "
        "drew the tokens."
    ),
    fix="They are taken at the rollout's temperature.",
    probe=probe,
    shown_by=("reference-log-probs", "divergence"),
    releases=("0.1.6",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    logits = jax.random.normal(jax.random.key(0), (8, 8))
    ids = jnp.array([[2, 3, 4, 5, 6]])
    cluster = toy_cluster(
        actor=Table(logits), reference=Table(logits), rollout=toy_rollout_config(temperature=0.5)
    )
    found = np.array(cluster.get_ref_per_token_logps(ids[:, :2], ids[:, 2:], pad_id=0, eos_id=1))

    def at(temperature: float) -> np.ndarray:
        log_probs = jax.nn.log_softmax(logits[ids[0, 1:-1]] / temperature)
        return np.array(jnp.take_along_axis(log_probs, ids[0, 2:, None], axis=1)[None, :, 0])

    print("expected: the reference's log-probs at the rollout's temperature, 0.5")
    far, near = np.abs(found - at(0.5)).max(), np.abs(found - at(1.0)).max()
    print(f"got: off by {far:.4f} from those at 0.5, by {near:.6f} from those at 1")
    return bool(near < 1e-5 < 1e-2 < far)


class Fix(points.Fix):
    """Take the reference's log-probs at the rollout's temperature."""

    def cluster(self, cluster: Any) -> None:
        worker, config = cluster.inference_worker, cluster.cluster_config.rollout_config
        compute = temperature_lib.at_temperature(
            inference_worker.InferenceWorker.get_ref_per_token_logps, config.temperature
        )
        worker.get_ref_per_token_logps = functools.partial(compute, worker)
