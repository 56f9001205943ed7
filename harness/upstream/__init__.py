"""The only door to Tunix's RL: cluster, learner, rollout, checkpoints, and the ledger.

A Tunix upgrade touches this folder and nothing else.
"""

from harness.upstream.backends import check as check_backends
from harness.upstream.checkpoints import restore_actor, saved_steps
from harness.upstream.cluster import Cluster, make_cluster
from harness.upstream.generate import Generator
from harness.upstream.learner import (
    Learner,
    RewardFn,
    TrainExample,
    Watcher,
    divergence,
    generate_example,
    log_probs,
    log_probs_of,
    make_learner,
    release,
    rows_of_values_calls,
    total_rewards,
    train_on,
    values,
)
from harness.upstream.ledger import (
    DEFECTS,
    SUPPORTED,
    Defect,
    Mode,
    defect,
    expected,
    installed_version,
    mends,
    present,
    reproduction,
    standing,
)
from harness.upstream.metrics import Scalars, not_finite, rows
from harness.upstream.parts import measure
from harness.upstream.resume import Point, latest, seal, take_back
from harness.upstream.selection import STOCK, Fixes
from harness.upstream.trace import Trace, parameters, watch, weights

__all__ = [
    "DEFECTS",
    "STOCK",
    "SUPPORTED",
    "Cluster",
    "Defect",
    "Fixes",
    "Generator",
    "Learner",
    "Mode",
    "Point",
    "RewardFn",
    "Scalars",
    "Trace",
    "TrainExample",
    "Watcher",
    "check_backends",
    "defect",
    "divergence",
    "expected",
    "generate_example",
    "installed_version",
    "latest",
    "log_probs",
    "log_probs_of",
    "make_cluster",
    "make_learner",
    "measure",
    "mends",
    "not_finite",
    "parameters",
    "present",
    "release",
    "reproduction",
    "restore_actor",
    "rows",
    "rows_of_values_calls",
    "saved_steps",
    "seal",
    "standing",
    "take_back",
    "total_rewards",
    "train_on",
    "values",
    "watch",
    "weights",
]
