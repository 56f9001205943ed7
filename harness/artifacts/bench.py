"""What the benchmarks write: pytest-benchmark's JSON, and the answer of a benchmark process."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from harness.artifacts.parts import Amount, Count, Environment, OpenPart, Part

SCHEMA = "tunix-ppo-harness/bench/2"
# The layout of pytest-benchmark's JSON has not changed within these.
PYTEST_BENCHMARK = ("5",)


class Figures(OpenPart):
    """Exact figures of a program: the same at every run."""

    compile_count: Count | None = None
    retraces: Count | None = None
    argument_bytes: Count | None = None
    output_bytes: Count | None = None
    alias_bytes: Count | None = None
    temp_bytes: Count | None = None
    donated_bytes: Count | None = None
    flops: Amount | None = None
    largest_micro_batch: Count | None = None

    def chosen(self, names: Sequence[str]) -> dict[str, int]:
        """Return the figures of some names as whole numbers, those that are known."""
        found = {name: getattr(self, name, None) for name in names}
        return {name: int(value) for name, value in found.items() if value is not None}


class ExtraInfo(Figures):
    """What pytest-benchmark's own figures lack; see `docs/benchmarks.md`."""

    micro_batch: Count | None = None
    dtype: str | None = None
    tokens: Count | None = None
    tokens_per_second: Amount | None = None
    loop_trips: Count | None = None
    code_bytes: Count | None = None
    bytes_accessed: Amount | None = None
    peak_bytes: Count | None = None
    compiled_peak_bytes: Count | None = None
    measured_peak_bytes: Count | None = None
    device_peak_bytes: Count | None = None
    compile_seconds: Amount | None = None
    roofline_fraction: Amount | None = None
    device: str | None = None


class Stats(Part):
    """Seconds of the rounds of a benchmark."""

    median: Amount
    q1: Amount
    q3: Amount
    rounds: Count
    data: list[Amount] = []


class Benchmark(Part):
    """One benchmark at one size."""

    name: str
    group: str | None = None
    params: dict[str, Any] | None = None
    extra_info: ExtraInfo = ExtraInfo()
    stats: Stats

    @property
    def program(self) -> str:
        """Name of the program that it is of."""
        if self.group in (None, "memory"):
            return str((self.params or {}).get("name", self.name))
        return str(self.group)


class Machine(Part):
    """The machine, as pytest-benchmark describes it."""

    python_version: str | None = None
    cpu: dict[str, Any] = {}


class Commit(Part):
    """The commit that was timed."""

    id: str | None = None
    dirty: bool | None = None


class Conditions(Part):
    """What figures depend on, and what was judged; the harness adds it to each file."""

    schema_name: Literal["tunix-ppo-harness/bench/2"] = Field(alias="schema")
    conditions: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    judged: dict[str, Any] = {}


class Bench(Part):
    """pytest-benchmark's JSON."""

    version: str
    datetime: str | None = None
    machine_info: Machine = Machine()
    commit_info: Commit = Commit()
    benchmarks: list[Benchmark]
    harness: Conditions | None = None


class Header(Conditions):
    """The first line of a benchmark process: all of what times rounds, then `Seconds`."""

    environment: Environment = Environment()
    names: list[str] = []


class Measured(Header):
    """The answer of a benchmark process that takes exact figures, by benchmark."""

    benchmarks: dict[str, Figures]


class Peak(Header):
    """The answer of a benchmark process that measures the memory of one program.

    `measured_peak_bytes` is the device's, None where it reports none: of the process until the
    program has run, weights and whatever else lives meanwhile included.
    """

    name: str
    compiled_peak_bytes: Count
    measured_peak_bytes: Count | None


class Order(Part):
    """An order to time one round of so many calls."""

    name: str
    calls: Count


class Seconds(Part):
    """Seconds a call of a round, by clock."""

    wall_clock: Amount
    cpu: Amount
