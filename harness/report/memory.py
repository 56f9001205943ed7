"""Does it fit: HBM by phase against the chip's line."""

from harness.artifacts.plan import GIB, MEMORY_KINDS, Phase, Plan, by_kind
from harness.artifacts.run import Run
from harness.report import charts, forms
from harness.report.page import WIDE, Figure, Note, Part, Table, picture
from harness.report.reading import Source

_TONES = {kind: f"k{index}" for index, (kind, _) in enumerate(MEMORY_KINDS)}


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


def planned(source: Source, plan: Plan) -> list[Part]:
    """Show the memory of each phase of a plan against the chip's."""
    if not plan.phases:
        return [Note(f"{source.name} holds no phase.")]
    limit = plan.hbm_bytes
    rows = [_bar(phase, limit) for phase in plan.phases]
    rule = charts.Rule(limit / GIB, f"HBM {limit / GIB:.2f} GiB")
    found = "; ".join(f"{row.name} {row.text}" for row in rows)
    label = f"HBM of a {plan.chip} chip by phase, GiB: {found}; the chip has {limit / GIB:.2f}"
    axis = charts.Axis("GiB")
    seen = {segment.name for row in rows for segment in row.segments}
    figure = Figure(
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
    return [figure]


def _cells(phase: Phase, limit: int) -> tuple[str, ...]:
    peak, program = phase.peak_bytes, phase.program or forms.NOT_REPORTED
    fits = "yes" if phase.fits else "no"
    if peak is None:
        return phase.name, program, forms.NOT_REPORTED, forms.NOT_REPORTED, fits
    return phase.name, program, f"{peak / GIB:.2f}", f"{(limit - peak) / GIB:.2f}", fits


def measured(source: Source, run: Run) -> list[Part]:
    """Show the memory of each phase of a run."""
    known = [phase for phase in run.phases if phase.peak_bytes is not None]
    if not known:
        device = run.environment.devices.kind or "unknown"
        return [Note(f"{source.name}: peak of memory not reported by this device ({device}).")]
    rows = [(phase.name, forms.size(phase.peak_bytes)) for phase in known]
    head = ("phase", "peak since the run began")
    return [Table(head, rows, ("measured",), f"Peak of device memory, {source.name}", figures={1})]
