"""A resumed run with its rollout on another mesh samples from the initial policy.

Expected: after a resume the rollout has the weights of the restored actor.
Got: those that the actor had before training, until the first batch is done: its
completions and old log-probabilities are of a policy that is no longer there.
"""

import tempfile
from typing import Any

import jax
import numpy as np
import optax
from tunix.rl import rl_cluster

from harness.upstream.fixes._prelude import toy_batch, toy_cluster, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="resume-samples-initial-policy",
    title="With the rollout on its own mesh, a resume samples the initial weights.",
    where="tunix/rl/rl_learner.py:115",
    effect="The first batch and its old log-probs are of the untrained policy.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    jax.config.update("jax_num_cpu_devices", 2)
    elsewhere = jax.sharding.Mesh(np.array(jax.devices()[1:2]), ("fsdp",))
    with tempfile.TemporaryDirectory() as directory:
        settings: dict[str, Any] = {
            "meshes": {rl_cluster.Role.ROLLOUT: elsewhere},
            "training": {
                "actor_optimizer": optax.sgd(0.5),
                "critic_optimizer": optax.sgd(0.5),
                "max_steps": 1,
                "checkpoint_root_directory": directory,
            },
        }
        toy_learner(lambda prompts, **_: [0.0, 1.0], **settings).train([toy_batch("ab")])
        cluster = toy_cluster(**settings)
    actor, sampled = cluster.actor_trainer.model.table, cluster.rollout.model().table
    moved = float(np.abs(np.array(actor[...])[:, 2:]).max())
    apart = float(np.abs(np.array(actor[...]) - np.array(sampled[...])).max())
    print(f"expected: rollout and restored actor, which moved by {moved:.3f}, differ by 0.000")
    print(f"got: they differ by {apart:.3f}")
    return apart == moved > 0.0
