"""A cluster copies the policy to the host, for log-probs that PPO never asks for.

Expected: while PPO trains a policy that its rollout shares, the weights exist once.
Got: a second copy is stored when the cluster is built. `get_actor_per_token_logps` alone
reads it, and `PPOLearner` asks the rollout worker for its log-probs instead.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tunix.rl import rl_cluster

from harness.upstream import rebind
from harness.upstream.engine import points
from harness.upstream.fixes._prelude import reward_column, toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a cluster, when it is built, stores a copy of the policy."""
    return "_anchor_policy_state" in rl_cluster.RLCluster._init_cluster.__code__.co_names


ISSUE = KnownIssue(
    id="policy-anchored",
    title="A cluster copies the policy to the host, for log-probs that PPO never asks for.",
    where="tunix/rl/rl_cluster.py:587",
    effect=(
        "The host holds the whole policy once more, base and all: 3.9 GiB of the reference "
        "recipe in float32, in the memory of training where the device is the CPU."
    ),
    fix="The copy is not made.",
    probe=probe,
    shown_by=("steps-overwrite",),
    releases=("0.1.7",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    learner = toy_learner(reward_column, training={"max_steps": 1})
    cluster = learner.rl_cluster
    copy: Any = getattr(cluster, "_anchor_policy_state", None)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(copy))
    cluster._anchor_policy_state = None  # nothing below misses it
    learner.train([toy_batch("abcd", reward=np.arange(4.0))])
    print("expected: bytes of the policy that are stored a second time: 0")
    print(f"got: {size}, and training without them ends after {cluster.global_steps} step")
    return size > 0


class Fix(points.Fix):
    """Leave out the copy of the policy, of whose log-probs PPO asks the rollout worker."""

    def init_cluster(self, init: Callable[..., None]) -> Callable[..., None]:
        utilities = rebind.Overlay(
            rl_cluster.rl_utils, put_params_on_memory_kind=lambda params, kind: None
        )
        return rebind.rebind(init, rl_utils=utilities)
