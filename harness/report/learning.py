"""Did it learn: reward by global step, accuracy before and after, and what went along."""

import json
from collections.abc import Sequence

from harness.report import charts, kinds, svg
from harness.report.page import HALF, WIDE, Figure, Note, Part, Picture, Section, Table, picture
from harness.report.reading import Source, Sources

TONES = tuple(f"s{index}" for index in range(6))
_COMMAND = "python -m harness run --preset tiny --out DIR"
# What else is logged: field, name, unit of the axis, whether it is a share.
_SIGNALS = (
    ("format_rate", "answers in the asked form", "share of answers", True),
    ("completion_tokens_mean", "length of completions", "tokens, mean", False),
    ("clip_fraction", "ratios that were clipped", "share of tokens", True),
    ("value_loss", "loss of the critic", "value loss", False),
)

Runs = Sequence[tuple[Source, kinds.Run]]


def section(sources: Sources) -> Section:
    """Show what the runs learned."""
    runs = sources.of(kinds.Run)
    if not runs:
        missing = Note("No run was given: nothing is known of learning.", _COMMAND, True)
        return Section("learning", "Did it learn?", (missing,))
    parts: list[Part] = [_accuracy(runs)]
    for group in _groups(runs):
        parts += _curves(group)
    parts += [
        Note(f"{source.name} was interrupted, and went on from optimizer step {run.resumed_at:,}.")
        for source, run in runs
        if run.resumed_at is not None
    ]
    parts += [_surprises(source, run) for source, run in runs if run.accounting.surprises]
    return Section("learning", "Did it learn?", tuple(parts))


def _groups(runs: Runs) -> list[list[tuple[Source, kinds.Run]]]:
    """Put runs together that differ in the seed alone."""
    groups: dict[str, list[tuple[Source, kinds.Run]]] = {}
    for source, run in runs:
        recipe = {name: value for name, value in run.recipe.items() if name != "seed"}
        key = json.dumps([recipe, run.upstream.mode, run.upstream.version], sort_keys=True)
        groups.setdefault(key, []).append((source, run))
    return list(groups.values())


def _accuracy(runs: Runs) -> Figure:
    rows = []
    table = []
    for index, (source, run) in enumerate(runs):
        marks = []
        for stage, found in (("before", run.baseline), ("after", run.trained)):
            low, high = found.accuracy_ci95
            marks.append(
                charts.Mark(
                    found.accuracy,
                    low,
                    high,
                    f"{svg.percent(found.accuracy)} {stage}",
                    TONES[index % len(TONES)],
                    hollow=stage != "after",
                )
            )
            table.append(
                (
                    source.name,
                    stage,
                    svg.percent(found.accuracy),
                    f"{svg.percent(low)} to {svg.percent(high)}",
                    svg.percent(found.format_accuracy),
                    f"{found.total:,}",
                )
            )
        rows.append(charts.Row(_name(source, run), tuple(marks)))
    label = "Accuracy with 95% intervals. " + "; ".join(
        f"{_name(source, run)}: {svg.percent(run.baseline.accuracy)} before PPO, "
        f"{svg.percent(run.trained.accuracy)} after"
        for source, run in runs
    )
    axis = charts.Axis("accuracy on the test problems, 95% interval", svg.percent, low=0, high=1)
    return Figure(
        title="Accuracy before and after PPO",
        basis=("measured",),
        pictures=(picture(lambda w: charts.intervals(rows, axis, label=label, width=w), WIDE),),
        caption="Open dot: before. Full dot: after. The line through it is the 95% interval "
        "that the number of problems leaves.",
        table=Table(
            head=("run", "when", "accuracy", "95% interval", "right form", "problems"),
            rows=tuple(table),
            basis=("measured",),
            caption="Accuracy before and after",
            figures=frozenset({2, 3, 4, 5}),
            folded=True,
        ),
    )


def _curves(runs: Runs) -> list[Part]:
    shown = [(source, run) for source, run in runs if run.steps]
    parts: list[Part] = [
        Note(f"{source.name} tells of no step of training: there is no curve.", missing=True)
        for source, run in runs
        if not run.steps
    ]
    if not shown:
        return parts
    for source, run in shown:
        lost = sum(step.reward_mean is None for step in run.steps)
        if lost:
            said = f"{source.name}: {lost} of {len(run.steps)} steps have no finite reward."
            parts.append(Note(said, missing=True))
    if any(step.reward_mean is not None for _, run in shown for step in run.steps):
        parts.append(_reward(shown))
    panels = []
    for field, title, unit, share in _SIGNALS:
        if any(getattr(step, field) is not None for _, run in shown for step in run.steps):
            panels.append(_signal(shown, field, title, unit, share))
        else:
            parts.append(Note(f"Not told by these runs: {title}.", missing=True))
    if panels:
        legend = tuple(
            (f"key {TONES[i % len(TONES)]}", _name(*each)) for i, each in enumerate(shown)
        )
        parts.append(
            Figure(
                title="What went along",
                basis=("measured",),
                pictures=tuple(panels),
                caption="Each by global step, as logged.",
                legend=legend if len(shown) > 1 else (),
            )
        )
    return parts


def _reward(runs: Runs) -> Figure:
    series, said = [], []
    for index, (source, run) in enumerate(runs):
        tone = TONES[index % len(TONES)]
        points = tuple((float(step.step), step.reward_mean) for step in run.steps)
        window = max(1, len(points) // 20)
        series.append(charts.Series("", points, tone, "faint"))
        smooth = rolling(points, window)
        series.append(charts.Series(_name(source, run, short=True), smooth, tone))
        known = [value for _, value in smooth if value is not None]
        if known:
            said.append(
                f"{_name(source, run)}: from {svg.number(known[0])} to {svg.number(known[-1])}"
            )
    windows = sorted({max(1, len(run.steps) // 20) for _, run in runs})
    label = f"Mean reward by global step, smoothed. {'; '.join(said)}"
    return Figure(
        title="Reward",
        basis=("measured",),
        pictures=(
            picture(
                lambda w: charts.lines(
                    series,
                    charts.Axis("global step"),
                    charts.Axis("mean reward of a step", low=0),
                    label=label,
                    width=w,
                    height=330 if w > 500 else 260,
                ),
                WIDE,
            ),
        ),
        caption="Faint: each step. Firm: mean of the last "
        f"{' or '.join(map(str, windows))} steps. " + "; ".join(said) + ".",
    )


def _signal(runs: Runs, field: str, title: str, unit: str, share: bool) -> Picture:
    series = []
    for index, (_, run) in enumerate(runs):
        points = tuple((float(step.step), getattr(step, field)) for step in run.steps)
        series.append(charts.Series("", points, TONES[index % len(TONES)], "thin"))
    form = svg.percent if share else svg.number
    return picture(
        lambda w: charts.lines(
            series,
            charts.Axis("global step"),
            charts.Axis(unit, form, low=0),
            label=f"{title} by global step",
            width=w,
            height=190,
        ),
        HALF,
        title,
    )


def rolling(
    points: Sequence[tuple[float, float | None]], window: int
) -> tuple[tuple[float, float | None], ...]:
    """Return the mean of the last values at each place, of those that are finite.

    Args:
      points: Places and values.
      window: How many places count, the place itself the last.

    Returns:
      As many places; a value is none where none of the last is finite.
    """
    out: list[tuple[float, float | None]] = []
    for index, (at, _) in enumerate(points):
        last = [value for _, value in points[max(0, index + 1 - window) : index + 1]]
        known = [value for value in last if value is not None]
        out.append((at, sum(known) / len(known) if known else None))
    return tuple(out)


def _surprises(source: Source, run: kinds.Run) -> Table:
    return Table(
        head=("surprise", "what"),
        rows=tuple((each.id, each.text) for each in run.accounting.surprises),
        basis=(),
        caption=f"What in the recipe of {source.name} will surprise, by arithmetic",
        code=frozenset({0}),
        folded=True,
    )


def _name(source: Source, run: kinds.Run, short: bool = False) -> str:
    seed = run.recipe.get("seed")
    words = [source.name, *([] if short else [str(run.recipe.get("name", ""))])]
    said = " ".join(word for word in words if word)
    return said if seed is None or short else f"{said}, seed {seed}"
