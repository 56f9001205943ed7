"""Did it learn: reward by global step, accuracy before and after, and what went along."""

import json
from collections.abc import Sequence

from harness.artifacts.run import Message, Run
from harness.report import charts, forms
from harness.report.drawing import TONES
from harness.report.page import HALF, WIDE, Figure, Note, Part, Picture, Table, picture
from harness.report.reading import Source

# What else is logged: field, name, unit of the axis, how a value is written.
_SIGNALS = (
    ("format_rate", "answers in the required format", "share of answers", forms.percent),
    ("completion_tokens_mean", "length of completions", "tokens, mean", forms.number),
    ("clip_fraction", "ratios that were clipped", "share of tokens", forms.percent),
    ("value_loss", "loss of the critic", "value loss", forms.number),
)
_STEP = charts.Axis("global step")

Runs = Sequence[tuple[Source, Run]]
Points = tuple[tuple[float, float | None], ...]


def parts(runs: Runs) -> list[Part]:
    """Show what runs learned."""
    parts: list[Part] = [_accuracy(runs)]
    for group in _groups(runs):
        parts += _curves(group)
    for source, run in runs:
        if run.resumed_at is not None:
            text = f"{source.name} was interrupted, and resumed from optimizer step"
            parts.append(Note(f"{text} {run.resumed_at:,}.", missing=False))
    for source, run in runs:
        if run.warnings:
            parts.append(_messages("warning", f"Warnings of {source.name}", run.warnings))
        if found := run.summary.warnings:
            caption = f"What in the recipe of {source.name} may be unexpected, by arithmetic"
            parts.append(_messages("what", caption, found, folded=True))
    return parts


def _messages(what: str, caption: str, found: Sequence[Message], *, folded: bool = False) -> Table:
    rows = [(each.id, each.text) for each in found]
    tones = [] if folded else ["differs"] * len(rows)
    return Table((what, "text"), rows, (), caption, folded=folded, code={0}, tones=tones)


def _groups(runs: Runs) -> list[list[tuple[Source, Run]]]:
    """Put runs together that differ in the seed alone."""
    groups: dict[str, list[tuple[Source, Run]]] = {}
    for source, run in runs:
        recipe = {name: value for name, value in run.recipe.items() if name != "seed"}
        key = json.dumps([recipe, run.upstream.mode, run.upstream.version], sort_keys=True)
        groups.setdefault(key, []).append((source, run))
    return list(groups.values())


def _accuracy(runs: Runs) -> Figure:
    rows, table = [], []
    for index, (source, run) in enumerate(runs):
        marks = []
        for stage, found in (("before", run.baseline), ("after", run.trained)):
            low, high = found.accuracy_ci95
            accuracy, tone = forms.percent(found.accuracy), TONES[index % len(TONES)]
            text = f"{accuracy} {stage}"
            marks.append(
                charts.Mark(found.accuracy, low, high, text, tone, hollow=stage == "before")
            )
            interval = f"{forms.percent(low)} to {forms.percent(high)}"
            right_form = forms.percent(found.format_accuracy)
            table.append((source.name, stage, accuracy, interval, right_form, f"{found.total:,}"))
        rows.append(charts.Row(_name(source, run), tuple(marks)))
    label = "Accuracy with 95% intervals. " + "; ".join(
        f"{row.name}: {', '.join(mark.text for mark in row.marks)}" for row in rows
    )
    axis = charts.Axis("accuracy on the test problems, 95% interval", forms.percent, low=0, high=1)
    return Figure(
        title="Accuracy before and after PPO",
        basis=("measured",),
        pictures=[picture(lambda w: charts.intervals(rows, axis, label=label, width=w), WIDE)],
        caption="Open dot: before. Full dot: after. The line through it is the 95% interval "
        "that the number of problems leaves.",
        table=Table(
            ("run", "when", "accuracy", "95% interval", "right format", "problems"),
            table,
            ("measured",),
            "Accuracy before and after",
            figures={2, 3, 4, 5},
            folded=True,
        ),
    )


def _curves(runs: Runs) -> list[Part]:
    shown = [(source, run) for source, run in runs if run.steps]
    parts: list[Part] = [
        Note(f"{source.name} holds no step of training: there is no curve.")
        for source, run in runs
        if not run.steps
    ]
    for source, run in shown:
        if lost := sum(step.reward_mean is None for step in run.steps):
            text = f"{source.name}: {lost} of {len(run.steps)} steps have no finite reward."
            parts.append(Note(text))
    legend = [(TONES[i % len(TONES)], _name(*each)) for i, each in enumerate(shown)]
    legend = legend if len(shown) > 1 else []
    if _known(shown, "reward_mean"):
        parts.append(_reward(shown, legend))
    panels = [_signal(shown, *signal) for signal in _SIGNALS if _known(shown, signal[0])]
    missing = [title for field, title, *_ in _SIGNALS if not _known(shown, field)]
    if shown and missing:
        parts.append(Note(f"Not reported by these runs: {', '.join(missing)}."))
    if panels:
        caption = "Each by global step, as logged."
        parts.append(Figure("What went along", ("measured",), panels, caption, legend))
    return parts


def _known(runs: Runs, field: str) -> bool:
    return any(getattr(step, field) is not None for _, run in runs for step in run.steps)


def _points(run: Run, field: str) -> Points:
    return tuple((float(step.step), getattr(step, field)) for step in run.steps)


def _reward(runs: Runs, legend: Sequence[tuple[str, str]]) -> Figure:
    series, found, windows = [], [], set()
    for index, (source, run) in enumerate(runs):
        tone, points = TONES[index % len(TONES)], _points(run, "reward_mean")
        window = max(1, len(points) // 20)
        windows.add(window)
        smooth = rolling(points, window)
        series += [charts.Series(points, tone, "faint"), charts.Series(smooth, tone)]
        known = [value for _, value in smooth if value is not None]
        if known:
            change = f"from {forms.number(known[0])} to {forms.number(known[-1])}"
            found.append(f"{_name(source, run)}: {change}")
    label = f"Mean reward by global step, smoothed. {'; '.join(found)}"
    y = charts.Axis("mean reward of a step", low=0)
    return Figure(
        title="Reward",
        basis=("measured",),
        pictures=[
            picture(
                lambda w: charts.lines(
                    series, _STEP, y, label=label, width=w, height=330 if w > 500 else 260
                ),
                WIDE,
            )
        ],
        caption="Faint: each step. Firm: mean of the last "
        f"{' or '.join(map(str, sorted(windows)))} steps. {'; '.join(found)}.",
        legend=legend,
    )


def _signal(runs: Runs, field: str, title: str, unit: str, form: charts.Form) -> Picture:
    series = [
        charts.Series(_points(run, field), TONES[index % len(TONES)], "thin")
        for index, (_, run) in enumerate(runs)
    ]
    y, label = charts.Axis(unit, form, low=0), f"{title} by global step"
    return picture(
        lambda w: charts.lines(series, _STEP, y, label=label, width=w, height=190), HALF, title
    )


def rolling(points: Points, window: int) -> Points:
    """Return the mean of the last values at each place, of those that are finite.

    Args:
      points: Places and values.
      window: How many places count, the place itself the last.

    Returns:
      As many places; a value is None where none of the last is finite.
    """
    out: list[tuple[float, float | None]] = []
    for index, (at, _) in enumerate(points):
        last = [value for _, value in points[max(0, index + 1 - window) : index + 1]]
        known = [value for value in last if value is not None]
        out.append((at, sum(known) / len(known) if known else None))
    return tuple(out)


def _name(source: Source, run: Run) -> str:
    name, seed = run.recipe.get("name", ""), run.recipe.get("seed")
    return f"{source.name} {name}".strip() + ("" if seed is None else f", seed {seed}")
