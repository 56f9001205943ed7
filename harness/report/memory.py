"""Does it fit: HBM by phase against the chip's line."""

from harness.artifacts.plan import GIB, MEMORY_KINDS, Phase, Plan, by_kind
from harness.artifacts.run import Run
from harness.report import charts, forms
from harness.report.page import Code, Figure, Note, Number, Part, Table
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
    return charts.Bar(phase.name, segments, text, over=not phase.fits)


def planned(source: Source, plan: Plan) -> list[Part]:
    """Show the memory of each phase of a plan against the chip's."""
    if not plan.phases:
        return [Note(f"{source.name} holds no phase.")]
    limit = plan.hbm_bytes
    bars = [_bar(phase, limit) for phase in plan.phases]
    rule = charts.Rule(limit / GIB, f"HBM {limit / GIB:.2f} GiB")
    label = f"HBM of a {plan.chip} chip by phase, GiB"
    seen = {segment.name for bar in bars for segment in bar.segments}
    figure = Figure(
        f"HBM by phase: {plan.recipe.get('name', 'the recipe')} on {plan.chip}",
        ("compiled",),
        f"GiB on one chip while each phase runs ({source.name}). The red line is what the chip "
        "has; what its allocator adds is not in it.",
        [charts.bars(charts.WIDE, "", bars, charts.Axis("GiB"), label=label, limit=rule)],
        [(tone, kind) for kind, tone in _TONES.items() if kind in seen],
        Table("HBM by phase", ("compiled",), [_row(each, limit) for each in plan.phases], True),
    )
    return [figure]


def _row(phase: Phase, limit: int) -> dict[str, str]:
    peak = phase.peak_bytes
    return {
        "phase": phase.name,
        "program": Code(phase.program or forms.NOT_REPORTED),
        "peak, GiB": Number(forms.known(peak and peak / GIB, "{:.2f}".format)),
        "headroom, GiB": Number(forms.known(peak and (limit - peak) / GIB, "{:.2f}".format)),
        "fits": "yes" if phase.fits else "no",
    }


def measured(source: Source, run: Run) -> list[Part]:
    """Show the memory of each phase of a run."""
    known = [phase for phase in run.phases if phase.peak_bytes is not None]
    if not known:
        device = run.environment.devices.kind or "unknown"
        return [Note(f"{source.name}: peak of memory not reported by this device ({device}).")]
    rows = [
        {"phase": each.name, "peak since the run began": Number(forms.size(each.peak_bytes))}
        for each in known
    ]
    return [Table(f"Peak of device memory, {source.name}", ("measured",), rows)]
