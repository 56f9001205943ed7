"""Where the time goes: of a run, of a step's programs, and at least."""

from collections.abc import Sequence

from harness.report import charts, kinds, svg
from harness.report.page import HALF, Figure, Note, Part, Picture, Section, picture
from harness.report.reading import Source, Sources
from harness.report.sizes import program


def section(sources: Sources) -> Section:
    """Show the time split of everything that was timed or bounded."""
    runs, benches = sources.of(kinds.Run), sources.of(kinds.Bench)
    plans = sources.of(kinds.Plan)
    parts: list[Part] = []
    if not runs:
        said = "No run was given: where a run's time goes is not known."
        parts.append(Note(said, "python -m harness run --preset tiny --out DIR", True))
    for source, run in runs:
        parts.append(_run(source, run))
    for source, bench in benches:
        parts += _bench(source, bench)
    for source, plan in plans:
        if plan.roofline.phases:
            parts.append(_plan(source, plan))
        else:
            parts.append(Note(f"{source.name} tells no bound of time.", missing=True))
    return Section("time", "Where does the time go?", tuple(parts))


def _run(source: Source, run: kinds.Run) -> Part:
    if not run.phases:
        return Note(f"{source.name} tells no phases.", missing=True)
    total = sum(phase.seconds for phase in run.phases)
    rows = []
    for phase in run.phases:
        compiling = min(phase.compile_seconds, phase.seconds)
        rows.append(
            charts.Bar(
                phase.name.replace("_", " "),
                (
                    charts.Segment("running", phase.seconds - compiling, "t0"),
                    charts.Segment("compiling", compiling, "t1"),
                ),
                f"{svg.seconds(phase.seconds)}, {phase.seconds / total:.0%}"
                if total
                else svg.seconds(phase.seconds),
            )
        )
    said = "; ".join(f"{row.name} {row.said}" for row in rows)
    compiled = sum(phase.compile_seconds for phase in run.phases)
    return Figure(
        title=f"A run by phase, {source.name}",
        basis=("measured",),
        pictures=(_bars(rows, f"Seconds of each phase: {said}"),),
        caption=f"{svg.seconds(total)} in all, {svg.seconds(compiled)} of it compiling.",
        legend=(("key t0", "running"), ("key t1", "compiling")),
        half=True,
    )


def _bars(rows: Sequence[charts.Bar], label: str) -> Picture:
    axis = charts.Axis("seconds")
    return picture(lambda w: charts.bars(rows, axis, label=label, width=w), HALF)


def _bench(source: Source, bench: kinds.Bench) -> list[Part]:
    timed = [each for each in bench.benchmarks if each.group != "memory"]
    if not timed:
        return [Note(f"{source.name} holds no timed benchmark.", missing=True)]
    groups: dict[tuple[str, int], list[kinds.Benchmark]] = {}
    for each in timed:
        key = (each.extra_info.dtype or "", each.extra_info.micro_batch or 0)
        groups.setdefault(key, []).append(each)
    parts: list[Part] = []
    for (dtype, rows), benchmarks in groups.items():
        bars = [
            charts.Bar(
                program(each),
                (charts.Segment("median", each.stats.median, "t0"),),
                svg.seconds(each.stats.median),
                (each.stats.q1, each.stats.q3),
            )
            for each in sorted(benchmarks, key=lambda each: -each.stats.median)
        ]
        said = "; ".join(f"{bar.name} {bar.said}" for bar in bars)
        what = ", ".join([*([dtype] if dtype else []), *([f"micro-batch {rows}"] if rows else [])])
        parts.append(
            Figure(
                title=f"A call of each program, {source.name}" + (f": {what}" if what else ""),
                basis=("measured",),
                pictures=(_bars(bars, f"Median seconds of a call: {said}"),),
                caption="Median of the rounds of one process; the line spans their middle half. "
                "Compiling is not in it.",
                half=True,
            )
        )
    return parts


def _plan(source: Source, plan: kinds.Plan) -> Figure:
    phases = plan.roofline.phases
    total = sum(phase.seconds for phase in phases)
    bars = [
        charts.Bar(
            phase.name,
            (charts.Segment("at least", phase.seconds, "t2"),),
            svg.seconds(phase.seconds) + (f", {phase.bound_by}" if phase.bound_by else ""),
        )
        for phase in phases
    ]
    said = "; ".join(f"{bar.name} {bar.said}" for bar in bars)
    return Figure(
        title=f"A global step at least, {source.name}: {plan.chip}",
        basis=("bound",),
        pictures=(_bars(bars, f"Least seconds of each phase in a global step: {said}"),),
        caption=f"{svg.seconds(total)} in all. After each time: what bounds it.",
        half=True,
    )
