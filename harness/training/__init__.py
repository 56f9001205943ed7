"""A run of the recipe: `run` takes it from data to the second evaluation.

`loop` trains between the two evaluations, `guards` watches it, `run_dir` saves what another
process needs to go on.
"""

from harness.training.guards import Options
from harness.training.result import Result
from harness.training.run import run

__all__ = ["Options", "Result", "run"]
