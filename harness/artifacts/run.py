"""`result.json` of a run."""

from typing import Any, Literal

from pydantic import Field

from harness.artifacts.parts import (
    Amount,
    Count,
    Environment,
    OpenPart,
    Part,
    Reading,
    Share,
    Upstream,
)

SCHEMA = "tunix-ppo-harness/result/2"


class Evaluation(OpenPart):
    """How many answers were right, with 95% intervals."""

    accuracy: Share
    format_accuracy: Share
    total: Count
    accuracy_ci95: tuple[Share, Share]
    format_accuracy_ci95: tuple[Share, Share] | None = None


class Step(OpenPart):
    """One global step of training; what was not finite is None."""

    step: Count
    reward_mean: Reading = None
    format_rate: Reading = None
    completion_tokens_mean: Reading = None
    clip_fraction: Reading = None
    policy_loss: Reading = None
    value_loss: Reading = None


class Phase(OpenPart):
    """A part of a run; `compile_seconds` are within `seconds`."""

    name: str
    seconds: Amount
    compile_seconds: Amount = 0.0
    peak_bytes: Count | None = None


class Message(Part):
    """A sentence with a short name: a warning of a recipe, or of a run."""

    id: str
    text: str


class Summary(OpenPart):
    """What arithmetic finds of a recipe."""

    warnings: list[Message] = []


class Data(Part):
    """Problems of each split, and how many were dropped for their length."""

    problems: dict[str, Count] = {}
    long_prompts: dict[str, Count] = {}


class Run(Part):
    """The artefact."""

    schema_name: Literal["tunix-ppo-harness/result/2"] = Field(alias="schema")
    recipe: dict[str, Any]
    environment: Environment
    summary: Summary = Summary()
    upstream: Upstream
    data: Data = Data()
    warm_start: dict[str, Any] | None = None
    baseline: Evaluation
    trained: Evaluation
    steps: list[Step]
    phases: list[Phase]
    checkpoint_step: Count
    resumed_at: Count | None = None
    model: dict[str, Any] | None = None
    warnings: list[Message] = []

    @property
    def gained(self) -> bool:
        """Whether the accuracy rose above its interval before PPO."""
        return self.trained.accuracy > self.baseline.accuracy_ci95[1]

    @property
    def lost(self) -> bool:
        """Whether the accuracy fell below its interval before PPO."""
        return self.trained.accuracy < self.baseline.accuracy_ci95[0]
