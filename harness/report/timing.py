"""Where the time goes: of a run, of a step's programs, and at least."""

from collections.abc import Sequence

from harness.artifacts.bench import Bench, Benchmark
from harness.artifacts.plan import Plan
from harness.artifacts.run import Run
from harness.report import charts, forms
from harness.report.page import Figure, Note, Part, Picture
from harness.report.reading import Source


def _seconds(bars: Sequence[charts.Bar], label: str) -> list[Picture]:
    return [charts.bars(charts.HALF, "", bars, charts.Axis("seconds"), label=label)]


def of_run(source: Source, run: Run) -> list[Part]:
    """Show the time of each phase of a run."""
    if not run.phases:
        return [Note(f"{source.name} holds no phases.")]
    total = sum(phase.seconds for phase in run.phases)
    bars = []
    for phase in run.phases:
        compiling = min(phase.compile_seconds, phase.seconds)
        segments = (
            charts.Segment("running", phase.seconds - compiling, "t0"),
            charts.Segment("compiling", compiling, "t1"),
        )
        text = forms.seconds(phase.seconds) + (f", {phase.seconds / total:.0%}" if total else "")
        bars.append(charts.Bar(phase.name.replace("_", " "), segments, text))
    compiled = sum(phase.compile_seconds for phase in run.phases)
    figure = Figure(
        f"A run by phase, {source.name}",
        ("measured",),
        f"{forms.seconds(total)} in all, {forms.seconds(compiled)} of it compiling.",
        _seconds(bars, "Seconds of each phase"),
        legend=(("t0", "running"), ("t1", "compiling")),
        half=True,
    )
    return [figure]


def of_bench(source: Source, bench: Bench) -> list[Part]:
    """Show the time of a call of each program."""
    groups: dict[tuple[str, int], list[Benchmark]] = {}
    for each in bench.benchmarks:
        if each.group != "memory":
            key = (each.extra_info.dtype or "", each.extra_info.micro_batch or 0)
            groups.setdefault(key, []).append(each)
    if not groups:
        return [Note(f"{source.name} holds no timed benchmark.")]
    return [_calls(source, *key, benchmarks) for key, benchmarks in groups.items()]


def _calls(source: Source, dtype: str, size: int, benchmarks: Sequence[Benchmark]) -> Figure:
    bars = [
        charts.Bar(
            each.program,
            (charts.Segment("median", each.stats.median, "t0"),),
            forms.seconds(each.stats.median),
            (each.stats.q1, each.stats.q3),
        )
        for each in sorted(benchmarks, key=lambda each: -each.stats.median)
    ]
    what = ", ".join(filter(None, (dtype, f"micro-batch {size}" if size else "")))
    return Figure(
        f"A call of each program, {source.name}" + (f": {what}" if what else ""),
        ("measured",),
        "Median of the rounds of one process; the line spans their middle half. Compiling is not "
        "in it.",
        _seconds(bars, "Median seconds of a call"),
        half=True,
    )


def of_plan(source: Source, plan: Plan) -> list[Part]:
    """Show the least time of each phase of a global step."""
    phases = plan.roofline.phases
    if not phases:
        return [Note(f"{source.name} holds no bound of time.")]
    bars = [
        charts.Bar(
            phase.name,
            (charts.Segment("at least", phase.seconds, "t2"),),
            ", ".join(filter(None, (forms.seconds(phase.seconds), phase.bound_by))),
        )
        for phase in phases
    ]
    total = forms.seconds(sum(phase.seconds for phase in phases))
    figure = Figure(
        f"A global step at least, {source.name}: {plan.chip}",
        ("bound",),
        f"{total} in all. After each time: what bounds it.",
        _seconds(bars, "Least seconds of each phase in a global step"),
        half=True,
    )
    return [figure]
