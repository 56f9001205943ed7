"""Does it fit: HBM by phase against the chip's line."""

from harness.report import charts, kinds, svg
from harness.report.page import WIDE, Figure, Note, Part, Section, Table, picture
from harness.report.reading import Source, Sources

_COMMAND = "python -m harness plan --preset gemma3-1b --chip v6e-1 --json plan.json"
GIB = 2**30
# Kinds of memory in the order of the stack, with their classes. A part is of
# the kind whose whole name or whose beginnings its name has.
_KINDS = (
    ("actor, frozen base", "k0", ("actor base",)),
    ("actor, LoRA and its optimizer", "k1", ("actor ",)),
    ("critic, its optimizer", "k2", ("critic ",)),
    ("critic, weights", "k3", ("critic",)),
    ("cache, inputs, batches", "k4", ("key-value", "inputs", "cached")),
    ("results with room of their own", "k5", ("results",)),
    ("temporaries", "k6", ("temporaries", "the program")),
    ("code", "k7", ("code",)),
    ("other", "k8", ("",)),
)


def section(sources: Sources) -> Section:
    """Show the plans' memory, and that of the runs."""
    title = "Does it fit?"
    plans = sources.of(kinds.Plan)
    parts: list[Part] = []
    if not plans:
        parts.append(Note("No plan was given: nothing is known of HBM.", _COMMAND, True))
    for source, plan in plans:
        if plan.phases:
            parts.append(_phases(source, plan))
        else:
            parts.append(Note(f"{source.name} tells of no phase.", missing=True))
    parts += _runs(sources.of(kinds.Run))
    return Section("memory", title, tuple(parts))


def stack(parts: list[kinds.Piece]) -> list[charts.Segment]:
    """Add parts up by kind, in the order of the kinds; those of nothing are left out.

    Args:
      parts: Bytes by what they are of.

    Returns:
      GiB by kind.
    """
    sums = dict.fromkeys((name for name, _, _ in _KINDS), 0)
    for part in parts:
        sums[_kind(part.name)] += part.bytes
    return [charts.Segment(name, sums[name] / GIB, tone) for name, tone, _ in _KINDS if sums[name]]


def _kind(name: str) -> str:
    for kind, _, starts in _KINDS:
        if name == starts[0]:
            return kind
    return next(kind for kind, _, starts in _KINDS if name.startswith(starts) and starts[0] != name)


def _phases(source: Source, plan: kinds.Plan) -> Figure:
    limit = plan.hbm_bytes
    rows, table = [], []
    for phase in plan.phases:
        peak = phase.peak_bytes
        segments = stack(phase.parts)
        if not segments and peak:
            segments = [charts.Segment("all", peak / GIB, "k8")]
        if peak is None:
            said = "refused by the compiler"
        elif phase.fits:
            said = f"{peak / GIB:.2f}"
        else:
            said = f"{peak / GIB:.2f}, over by {max(0, peak - limit) / GIB:.2f}"
        rows.append(charts.Bar(phase.name, tuple(segments), said, over=not phase.fits))
        table.append(
            (
                phase.name,
                phase.program or "not told",
                "not told" if peak is None else f"{peak / GIB:.2f}",
                "not told" if peak is None else f"{(limit - peak) / GIB:.2f}",
                "yes" if phase.fits else "no",
            )
        )
    rule = charts.Rule(limit / GIB, f"HBM {limit / GIB:.2f} GiB", "x")
    said = "; ".join(f"{row[0]} {row[2]} GiB" for row in table)
    label = f"HBM of a {plan.chip} chip by phase: {said}; the chip has {limit / GIB:.2f} GiB"
    axis = charts.Axis("GiB")
    seen = {segment.name for row in rows for segment in row.segments}
    return Figure(
        title=f"HBM by phase: {plan.recipe.get('name', 'the recipe')} on {plan.chip}",
        basis=("compiled",),
        pictures=(
            picture(
                lambda w: charts.bars(rows, axis, label=label, width=w, limit=rule),
                WIDE,
            ),
        ),
        caption=f"GiB on one chip while each phase runs ({source.name}). The red line is what the "
        "chip has; what its allocator adds is not in it.",
        legend=tuple((f"key {tone}", name) for name, tone, _ in _KINDS if name in seen),
        table=Table(
            head=("phase", "program", "peak, GiB", "headroom, GiB", "fits"),
            rows=tuple(table),
            basis=("compiled",),
            caption="HBM by phase",
            figures=frozenset({2, 3}),
            folded=True,
            code=frozenset({1}),
        ),
    )


def _runs(runs: list[tuple[Source, kinds.Run]]) -> list[Part]:
    rows, silent = [], []
    for source, run in runs:
        known = [phase for phase in run.phases if phase.peak_bytes is not None]
        rows += [(source.name, p.name, svg.size(p.peak_bytes or 0)) for p in known]
        if not known:
            silent.append(f"{source.name} ({run.environment.devices.kind or 'device not told'})")
    parts: list[Part] = []
    if rows:
        parts.append(
            Table(
                head=("run", "phase", "peak since the run began"),
                rows=tuple(rows),
                basis=("measured",),
                caption="Peak of device memory",
                figures=frozenset({2}),
            )
        )
    if silent:
        said = f"No measured peak, for the device tells none: {', '.join(silent)}."
        parts.append(Note(said, missing=True))
    return parts
