"""What `plan --json` writes."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.artifacts.parts import Amount, Count, OpenPart, Part, Upstream

SCHEMA = "tunix-ppo-harness/plan/2"
GIB = 2**30
# Kinds of memory in the order in which they are stacked. A part is of the kind
# whose first beginning is its whole name, or of the first that it begins with.
MEMORY_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("actor, frozen base", ("actor base",)),
    ("actor, LoRA and its optimizer", ("actor ",)),
    ("critic, its optimizer", ("critic ",)),
    ("critic, weights", ("critic",)),
    ("cache, inputs, batches", ("key-value", "inputs", "cached")),
    ("results with room of their own", ("results",)),
    ("temporaries", ("temporaries", "the program")),
    ("code", ("code",)),
    ("other", ("",)),
)


class Piece(Part):
    """Bytes by what they are of; below 0 where the compiler drops arguments that live there."""

    name: str
    bytes: Annotated[int, Field(ge=-(2**63), le=2**63)]


class Resident(OpenPart):
    """What lives on a chip between programs."""

    name: str
    bytes: Count


class Refusal(OpenPart):
    """Why the compiler refused."""

    message: str = "the compiler refused"


class Program(Part):
    """A compiled program at a size; what a refused one lacks is None."""

    name: str
    micro_batch: Count
    argument_bytes: Count | None = None
    output_bytes: Count | None = None
    alias_bytes: Count | None = None
    temp_bytes: Count | None = None
    code_bytes: Count | None = None
    peak_bytes: Count | None = None
    flops: Amount | None = None
    bytes_accessed: Amount | None = None
    fits: bool
    refused: Refusal | None = None
    compile_seconds: Amount | None = None
    cached: bool | None = None
    least_flops: float | None = None
    least_bytes: float | None = None
    least_seconds: Amount | None = None
    bound_by: str | None = None


class Phase(Part):
    """A chip's memory while a phase runs."""

    name: str
    program: str = ""
    peak_bytes: Count | None
    headroom_bytes: int | None = None
    fits: bool
    parts: list[Piece] = []


class LargestMicroBatch(Part):
    """The largest micro-batch of a program that fits, in sequences."""

    name: str
    programs: list[str] = []
    reference: Count | None = None
    compiles: Count | None = None
    refused: Count | None = None
    refusal: dict[str, Any] | None = None
    fits_beside_the_rest_about: Count | None = None


class BoundPhase(Part):
    """The least time of a phase in a global step."""

    name: str
    seconds: Amount
    tokens_per_second: Amount | None = None
    bound_by: str = ""


class ChipBound(Part):
    """The least time of a global step on another chip."""

    chip: str
    chips: Count
    seconds_per_global_step: Amount


class Roofline(Part):
    """Lower bounds of times."""

    note: str = ""
    phases: list[BoundPhase] = []
    seconds_per_global_step: Amount | None = None
    seconds: Amount | None = None
    dominated_by: str = ""
    other_chips: list[ChipBound] = []


class Setting(OpenPart):
    """A size, and the least seconds of its programs in a global step at other sizes."""

    setting: str
    reference: Count
    recommended: Count | None = None
    bounds: dict[Annotated[int, Field(gt=0, le=2**31)], Amount] = {}
    fit: list[Count] | None = None


class Recommendation(OpenPart):
    """Sizes that fit and have the best bound, if a search looked for them."""

    searched: bool = False
    settings: list[Setting] = []


class Plan(Part):
    """The artefact."""

    schema_name: Literal["tunix-ppo-harness/plan/2"] = Field(alias="schema")
    chip: str
    chips: Count = 1
    hbm_bytes: Annotated[int, Field(gt=0, le=2**63)]
    upstream: Upstream | None = None
    versions: dict[str, str | None] = {}
    recipe: dict[str, Any] = {}
    resident: list[Resident] = []
    programs: list[Program]
    phases: list[Phase]
    largest_micro_batches: list[LargestMicroBatch] = []
    roofline: Roofline = Roofline()
    recommendation: Recommendation = Recommendation()
    host: dict[str, Any] = {}
    fits: bool | None = None
    commit: str | None = None
    compiler_flags: str | None = None

    @property
    def fits_all(self) -> bool:
        """Whether every phase is within the chip's memory."""
        return all(each.fits for each in self.phases)


def by_kind(parts: Sequence[Piece]) -> dict[str, int]:
    """Return bytes by kind of memory, in the order of the kinds; empty kinds are left out."""
    sums = dict.fromkeys((kind for kind, _ in MEMORY_KINDS), 0)
    for part in parts:
        sums[_kind(part.name)] += part.bytes
    return {kind: size for kind, size in sums.items() if size > 0}


def _kind(name: str) -> str:
    exact = {starts[0]: kind for kind, starts in MEMORY_KINDS}
    if name in exact:
        return exact[name]
    return next(kind for kind, starts in MEMORY_KINDS if name.startswith(starts))
