"""The only door to Tunix's RL: cluster, learner, rollout, checkpoints, and the ledger.

A Tunix upgrade touches this folder and nothing else.
"""

from harness.upstream.checkpoints import restore_actor, saved_steps
from harness.upstream.cluster import Cluster, make_cluster
from harness.upstream.generate import Generator
from harness.upstream.learner import (
    Learner,
    RewardFn,
    TrainExample,
    generate_example,
    make_learner,
    release,
    train_on,
)
from harness.upstream.ledger import (
    DEFECTS,
    SUPPORTED,
    Defect,
    Mode,
    installed_version,
    mends,
    present,
)
from harness.upstream.metrics import StepRecorder

__all__ = [
    "DEFECTS",
    "SUPPORTED",
    "Cluster",
    "Defect",
    "Generator",
    "Learner",
    "Mode",
    "RewardFn",
    "StepRecorder",
    "TrainExample",
    "generate_example",
    "installed_version",
    "make_cluster",
    "make_learner",
    "mends",
    "present",
    "release",
    "restore_actor",
    "saved_steps",
    "train_on",
]
