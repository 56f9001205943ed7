"""Did it get worse? Baselines, comparison and verdict, in three tiers.

The gate sees JSON alone: figures that a benchmark, a plan or a run wrote down.
It measures nothing itself and knows neither models nor the trainer.
"""

from harness.gate.verdict import Finding, Report, Verdict

__all__ = ["Finding", "Report", "Verdict"]
