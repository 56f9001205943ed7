"""The critic's values are computed for the whole batch at once.

Expected: compute_logps_micro_batch_size=1 splits a batch of four for the policy and
for the critic alike.
Got: log-probabilities by ones, values by four: `get_values` has no micro-batch size,
so memory is that of the full batch.
"""

import contextlib
import types
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from tunix.rl import rl_cluster

from harness.upstream.engine import points
from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes._probing import END, PAD
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether values are computed for four sequences at once where log-probs go by two."""
    rows: list[int] = []

    def values(prompts: Any, *args: Any, **kwargs: Any) -> jax.Array:
        rows.append(len(prompts))
        return jnp.zeros((len(prompts), 2))

    cluster = types.SimpleNamespace(
        inference_worker=types.SimpleNamespace(get_values=values),
        cluster_config=types.SimpleNamespace(
            training_config=types.SimpleNamespace(compute_logps_micro_batch_size=2)
        ),
        _get_mesh_and_logical_axis_rules_cm=lambda role: contextlib.nullcontext(),
    )
    ids = jnp.zeros((4, 1), jnp.int32)
    rl_cluster.RLCluster.get_values(cast(Any, cluster), ids, ids, PAD, END)
    return rows == [4]


ISSUE = KnownIssue(
    id="values-not-micro-batched",
    title="Values are computed for all rows at once, whatever the micro-batch.",
    where="tunix/rl/rl_cluster.py:1168",
    effect="Memory: the activations of the critic are those of the whole group.",
    fix="They are computed in the micro-batches of the log-probs.",
    probe=probe,
    shown_by=("values-in-micro-batches",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    learner = toy_learner(training={"compute_logps_micro_batch_size": 1})
    sizes: dict[str, list[int]] = {"log-probabilities": [], "values": []}

    def record(owner: Any, method: str, name: str) -> None:
        call = getattr(owner, method)

        def recorded(prompts: jax.Array, *rest: Any) -> jax.Array:
            sizes[name].append(len(prompts))
            return call(prompts, *rest)

        setattr(owner, method, recorded)

    record(learner.rl_cluster.rollout, "get_per_token_logps", "log-probabilities")
    record(learner.rl_cluster.inference_worker, "get_values", "values")
    learner._generate_and_compute_advantage(toy_batch("abcd"))
    print("expected: {'log-probabilities': [1, 1, 1, 1], 'values': [1, 1, 1, 1]}")
    print(f"got: {sizes}")
    return sizes == {"log-probabilities": [1] * 4, "values": [4]}


class Fix(points.Fix):
    """Compute values in the micro-batches of the log-probs."""

    def values(self, cluster: Any, compute: Callable[..., Any]) -> Callable[..., Any]:
        size = cluster.cluster_config.training_config.compute_logps_micro_batch_size
        if size is None:
            return compute

        def values(prompts: jax.Array, completions: jax.Array, *ids: int) -> jax.Array:
            parts = [
                compute(prompts[start : start + size], completions[start : start + size], *ids)
                for start in range(0, len(prompts), size)
            ]
            return jnp.concatenate(parts)

        return values
