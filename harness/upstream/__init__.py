"""The only door to Tunix's RL: cluster, learner, rollout, checkpoints, and the known issues.

A Tunix upgrade touches this folder and nothing else.
"""

from harness.upstream.engine.backends import check as check_backends
from harness.upstream.engine.calls import (
    RolloutOutput,
    divergence,
    generate_example,
    log_probs,
    log_probs_of,
    rows_of_values_calls,
    sample,
    total_rewards,
    train_on,
    values,
)
from harness.upstream.engine.checkpoints import restore_actor, saved_steps
from harness.upstream.engine.cluster import Cluster, make_cluster
from harness.upstream.engine.generate import Generator
from harness.upstream.engine.learner import (
    Learner,
    RewardFn,
    TrainExample,
    Watcher,
    make_learner,
    release,
)
from harness.upstream.engine.metrics import Scalars, not_finite, rows
from harness.upstream.engine.resume import Point, latest, roll_back, seal
from harness.upstream.instrument.parts import measure
from harness.upstream.instrument.trace import Trace, parameters, watch, weights
from harness.upstream.known_issues import (
    KNOWN_ISSUES,
    SUPPORTED,
    KnownIssue,
    Mode,
    choose_fixes,
    expected,
    installed_version,
    known_issue,
    present,
    reproduction,
    standing,
)
from harness.upstream.selection import STOCK, Fixes

__all__ = [
    "KNOWN_ISSUES",
    "STOCK",
    "SUPPORTED",
    "Cluster",
    "Fixes",
    "Generator",
    "KnownIssue",
    "Learner",
    "Mode",
    "Point",
    "RewardFn",
    "RolloutOutput",
    "Scalars",
    "Trace",
    "TrainExample",
    "Watcher",
    "check_backends",
    "choose_fixes",
    "divergence",
    "expected",
    "generate_example",
    "installed_version",
    "known_issue",
    "latest",
    "log_probs",
    "log_probs_of",
    "make_cluster",
    "make_learner",
    "measure",
    "not_finite",
    "parameters",
    "present",
    "release",
    "reproduction",
    "restore_actor",
    "roll_back",
    "rows",
    "rows_of_values_calls",
    "sample",
    "saved_steps",
    "seal",
    "standing",
    "total_rewards",
    "train_on",
    "values",
    "watch",
    "weights",
]
