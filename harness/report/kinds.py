"""The kinds of results that the page reads, and what of each it needs.

Everything a page shows passes through these models, so that a file that lacks
a part is refused with the part's name, and what is here is of the right type.
Fields that a page does not show are not looked at. Bytes, FLOPs and tokens are
counts, times are seconds, shares are in 0..1.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Kind = Literal["run", "check", "plan", "bench", "gate"]
KINDS: tuple[Kind, ...] = ("run", "check", "plan", "bench", "gate")


def _finite(value: Any) -> Any:
    """Take what is not finite as not told: JSON has no name for it, Python's has."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Bounded, so that no figure runs out of what a chart's arithmetic can hold.
Count = Annotated[int, Field(ge=0, le=2**63)]
Amount = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Reading = Annotated[
    Annotated[float, Field(ge=-1e18, le=1e18, allow_inf_nan=False)] | None, BeforeValidator(_finite)
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Upstream(_Part):
    """Which Tunix, `patched` or `stock`."""

    mode: str
    version: str
    fixes: list[str] = []


class Processor(_Part):
    """The host's processor."""

    model: str | None = None
    count: int | None = None


class Devices(_Part):
    """The accelerators, or the host as one."""

    kind: str | None = None
    count: int | None = None


class Environment(_Part):
    """Where something was measured; see `harness.measure.environment.fingerprint`."""

    python: str | None = None
    cpu: Processor = Processor()
    packages: dict[str, str | None] = {}
    backend: str | None = None
    devices: Devices = Devices()


class Evaluation(_Part):
    """How many answers were right, with 95% intervals."""

    accuracy: Share
    format_accuracy: Share
    total: Count
    accuracy_ci95: tuple[Share, Share]
    format_accuracy_ci95: tuple[Share, Share] | None = None


class Step(_Part):
    """One global step of training; what was not finite is none."""

    step: Count
    reward_mean: Reading = None
    format_rate: Reading = None
    completion_tokens_mean: Reading = None
    clip_fraction: Reading = None
    policy_loss: Reading = None
    value_loss: Reading = None


class RunPhase(_Part):
    """A part of a run; `compile_seconds` are within `seconds`."""

    name: str
    seconds: Amount
    compile_seconds: Amount = 0.0
    peak_bytes: Count | None = None


class Surprise(_Part):
    """What a recipe does that its reader would not expect."""

    id: str
    text: str


class Accounting(_Part):
    """What arithmetic says of a recipe."""

    surprises: list[Surprise] = []


class Run(_Part):
    """`result.json` of a run."""

    recipe: dict[str, Any]
    environment: Environment
    accounting: Accounting = Accounting()
    upstream: Upstream
    baseline: Evaluation
    trained: Evaluation
    steps: list[Step]
    phases: list[RunPhase]
    checkpoint_step: Count | None = None
    resumed_at: Count | None = None

    @property
    def gained(self) -> bool:
        """Whether the accuracy rose above its interval before PPO."""
        return self.trained.accuracy > self.baseline.accuracy_ci95[1]

    @property
    def lost(self) -> bool:
        """Whether the accuracy fell below its interval before PPO."""
        return self.trained.accuracy < self.baseline.accuracy_ci95[0]


class Property(_Part):
    """One property and what became of it."""

    id: str
    area: str
    status: Literal["pass", "known-defect", "fail", "error"]
    tolerance: str
    statement: str
    said: list[str] = []


class Defect(_Part):
    """One known issue."""

    id: str
    present: bool | None
    fixed: bool
    title: str
    where: str = ""
    releases: list[str] = []
    shown_by: list[str] = []
    reproduction: str | None = None


class Check(_Part):
    """`check --json`."""

    mode: str
    version: str
    properties: list[Property]
    defects: list[Defect]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong beyond what is a known issue."""
        return all(each.status in ("pass", "known-defect") for each in self.properties)


class Refusal(_Part):
    """Why the compiler refused."""

    message: str = "the compiler refused"


class Program(_Part):
    """A compiled program at a size."""

    name: str
    micro_batch: Count
    argument_bytes: Count | None = None
    output_bytes: Count | None = None
    alias_bytes: Count | None = None
    temp_bytes: Count | None = None
    peak_bytes: Count | None = None
    flops: Amount | None = None
    fits: bool
    refused: Refusal | None = None


class Piece(_Part):
    """Bytes by what they are of."""

    name: str
    bytes: Count


class PlanPhase(_Part):
    """A chip's memory while a phase runs."""

    name: str
    program: str = ""
    peak_bytes: Count | None
    fits: bool
    parts: list[Piece] = []


class Wall(_Part):
    """Where a program stops fitting, in sequences of one call."""

    name: str
    programs: list[str] = []
    compiles: Count | None = None
    refused: Count | None = None
    fits_beside_the_rest_about: Count | None = None


class BoundPhase(_Part):
    """The least time of a phase in a global step."""

    name: str
    seconds: Amount
    tokens_per_second: Amount | None = None
    bound_by: str = ""


class Roofline(_Part):
    """Lower bounds of times."""

    phases: list[BoundPhase] = []
    seconds_per_global_step: Amount | None = None


class Setting(_Part):
    """A size, and the least seconds of its programs in a global step at other sizes."""

    setting: str
    reference: Count
    recommended: Count | None = None
    bounds: dict[Annotated[int, Field(gt=0, le=2**31)], Amount] = {}
    fit: list[Count] | None = None


class Recommendation(_Part):
    """Sizes that fit and have the best bound, if a sweep looked for them."""

    searched: bool = False
    settings: list[Setting] = []


class Plan(_Part):
    """`plan --json`."""

    chip: str
    chips: Count = 1
    hbm_bytes: Annotated[int, Field(gt=0, le=2**63)]
    upstream: Upstream | None = None
    versions: dict[str, str | None] = {}
    recipe: dict[str, Any] = {}
    programs: list[Program]
    phases: list[PlanPhase]
    walls: list[Wall] = []
    roofline: Roofline = Roofline()
    recommendation: Recommendation = Recommendation()

    @property
    def fits(self) -> bool:
        """Whether every phase is within the chip's memory."""
        return all(each.fits for each in self.phases)


class Stats(_Part):
    """Seconds of the rounds of a benchmark."""

    median: Amount
    q1: Amount
    q3: Amount
    rounds: Count


class ExtraInfo(_Part):
    """What pytest-benchmark's own figures lack."""

    micro_batch: Count | None = None
    dtype: str | None = None
    tokens: Count | None = None
    flops: Amount | None = None
    bytes_accessed: Amount | None = None
    peak_bytes: Count | None = None
    compiled_peak_bytes: Count | None = None
    measured_peak_bytes: Count | None = None
    compile_seconds: Amount | None = None
    compile_count: Count | None = None
    roofline_fraction: Amount | None = None
    device: str | None = None


class Benchmark(_Part):
    """One benchmark at one size."""

    name: str
    group: str | None = None
    params: dict[str, Any] | None = None
    extra_info: ExtraInfo = ExtraInfo()
    stats: Stats


class Machine(_Part):
    """pytest-benchmark's own words for the machine."""

    python_version: str | None = None
    cpu: dict[str, Any] = {}


class Commit(_Part):
    """The commit that was timed."""

    id: str | None = None
    dirty: bool | None = None


class BenchConditions(_Part):
    """What the harness's benchmarks add to pytest-benchmark's file."""

    conditions: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    judged: dict[str, Any] = {}


class Bench(_Part):
    """pytest-benchmark's JSON."""

    version: str
    datetime: str | None = None
    machine_info: Machine = Machine()
    commit_info: Commit = Commit()
    benchmarks: list[Benchmark]
    harness: BenchConditions = BenchConditions()


class GateFigures(_Part):
    """The numbers behind a finding that a chart can show."""

    clock: str | None = None
    pairs: Count | None = None
    ratio: Amount | None = None
    ratio_lower: Amount | None = None
    ratio_upper: Amount | None = None
    detectable_ratio: Amount | None = None


class GateFinding(_Part):
    """What the gate found of one thing."""

    tier: str
    subject: str
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE", "NOT COMPARABLE"]
    text: str
    figures: GateFigures = GateFigures()


class Gate(_Part):
    """`gate --json`."""

    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE", "NOT COMPARABLE"]
    baseline: str
    candidate: str
    tiers: dict[str, str] = {}
    findings: list[GateFinding]
    environment: Environment = Environment()


Tree = Run | Check | Plan | Bench | Gate
MODELS: dict[Kind, type[Tree]] = {
    "run": Run,
    "check": Check,
    "plan": Plan,
    "bench": Bench,
    "gate": Gate,
}
