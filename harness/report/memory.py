"""Does it fit: HBM by phase against the chip's line."""

from harness.artifacts.plan import GIB, MEMORY_KINDS, Phase, Plan, by_kind
from harness.artifacts.run import Run
from harness.report import charts, forms
from harness.report.page import WIDE, Figure, Note, Part, Section, Table, picture
from harness.report.reading import Source, Sources

_COMMAND = "python -m harness plan --preset gemma3-1b --chip v6e-1 --json plan.json"
_TONES = {kind: f"k{index}" for index, (kind, _) in enumerate(MEMORY_KINDS)}


def section(sources: Sources) -> Section:
    """Show the plans' memory, and that of the runs."""
    plans = sources.of(Plan)
    parts: list[Part] = []
    if not plans:
        parts.append(Note("No plan was given: nothing is known of HBM.", _COMMAND))
    for source, plan in plans:
        parts.append(
            _phases(source, plan) if plan.phases else Note(f"{source.name} holds no phase.")
        )
    return Section("memory", "Does it fit?", parts + _runs(sources.of(Run)))


def _bar(phase: Phase, limit: int) -> charts.Bar:
    peak = phase.peak_bytes
    stacked = by_kind(phase.parts) or ({"other": peak} if peak else {})
    if peak is None:
        text = "refused by the compiler"
    elif phase.fits:
        text = f"{peak / GIB:.2f}"
    else:
        text = f"{peak / GIB:.2f}, over by {max(0, peak - limit) / GIB:.2f}"
    segments = [charts.Segment(kind, size / GIB, _TONES[kind]) for kind, size in stacked.items()]
    return charts.Bar(phase.name, tuple(segments), text, over=not phase.fits)


def _phases(source: Source, plan: Plan) -> Figure:
    limit = plan.hbm_bytes
    rows = [_bar(phase, limit) for phase in plan.phases]
    rule = charts.Rule(limit / GIB, f"HBM {limit / GIB:.2f} GiB")
    found = "; ".join(f"{row.name} {row.text}" for row in rows)
    label = f"HBM of a {plan.chip} chip by phase, GiB: {found}; the chip has {limit / GIB:.2f}"
    axis = charts.Axis("GiB")
    seen = {segment.name for row in rows for segment in row.segments}
    return Figure(
        title=f"HBM by phase: {plan.recipe.get('name', 'the recipe')} on {plan.chip}",
        basis=("compiled",),
        pictures=[
            picture(lambda w: charts.bars(rows, axis, label=label, width=w, limit=rule), WIDE)
        ],
        caption=f"GiB on one chip while each phase runs ({source.name}). The red line is what the "
        "chip has; what its allocator adds is not in it.",
        legend=[(tone, kind) for kind, tone in _TONES.items() if kind in seen],
        table=Table(
            ("phase", "program", "peak, GiB", "headroom, GiB", "fits"),
            [_cells(phase, limit) for phase in plan.phases],
            ("compiled",),
            "HBM by phase",
            figures={2, 3},
            folded=True,
            code={1},
        ),
    )


def _cells(phase: Phase, limit: int) -> tuple[str, ...]:
    peak, program = phase.peak_bytes, phase.program or forms.NOT_REPORTED
    fits = "yes" if phase.fits else "no"
    if peak is None:
        return phase.name, program, forms.NOT_REPORTED, forms.NOT_REPORTED, fits
    return phase.name, program, f"{peak / GIB:.2f}", f"{(limit - peak) / GIB:.2f}", fits


def _runs(runs: list[tuple[Source, Run]]) -> list[Part]:
    rows, silent = [], []
    for source, run in runs:
        known = [phase for phase in run.phases if phase.peak_bytes is not None]
        rows += [(source.name, phase.name, forms.size(phase.peak_bytes)) for phase in known]
        if not known:
            silent.append(f"{source.name} ({run.environment.devices.kind or 'unknown device'})")
    parts: list[Part] = []
    if rows:
        head = ("run", "phase", "peak since the run began")
        parts.append(Table(head, rows, ("measured",), "Peak of device memory", figures={2}))
    if silent:
        parts.append(Note(f"Peak of memory not reported by this device: {', '.join(silent)}."))
    return parts
