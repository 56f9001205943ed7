"""What `gate --json` writes, and the baselines that it stores."""

from typing import Any, Literal

from pydantic import Field

from harness.artifacts.parts import Amount, Count, Environment, OpenPart, Part

SCHEMA = "tunix-ppo-harness/gate/1"
BASELINE_SCHEMA = "tunix-ppo-harness/baseline/1"
LEARNING_SCHEMA = "tunix-ppo-harness/learning/1"
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "NOT COMPARABLE"]


class Figures(OpenPart):
    """The numbers behind a finding; a chart can show those that are named here."""

    clock: str | None = None
    pairs: Count | None = None
    ratio: Amount | None = None
    ratio_lower: Amount | None = None
    ratio_upper: Amount | None = None
    detectable_ratio: Amount | None = None


class Finding(Part):
    """What the gate found of one thing."""

    tier: str
    subject: str
    verdict: Verdict
    text: str
    figures: Figures = Figures()


class Gate(Part):
    """The artefact."""

    schema_name: Literal["tunix-ppo-harness/gate/1"] = Field(alias="schema")
    verdict: Verdict
    baseline: str
    candidate: str
    tiers: dict[str, str] = {}
    findings: list[Finding]
    environment: Environment = Environment()
    evidence: dict[str, Any] = {}


class Baseline(Part):
    """A baseline of exact figures: benchmark -> figure -> value."""

    schema_name: Literal["tunix-ppo-harness/baseline/1"] = Field(alias="schema")
    kind: str
    judged: dict[str, Any]
    conditions: dict[str, Any]
    exact: dict[str, dict[str, int]]
    history: list[dict[str, Any]]


class LearnedRun(Part):
    """What one training learned; see `harness.gate.learning.Run`."""

    seed: int
    reward_area: float
    accuracy: float
    before: float


class Reference(Part):
    """Reference runs of the learning tier: a recipe without its seed, flat, and its runs."""

    schema_name: Literal["tunix-ppo-harness/learning/1"] = Field(alias="schema")
    recipe: dict[str, Any]
    judged: dict[str, Any]
    runs: list[LearnedRun]
    history: list[dict[str, Any]]
