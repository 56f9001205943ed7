"""Did it learn: reward by global step, accuracy before and after, and what went along."""

import json
from collections.abc import Sequence

from harness.artifacts.run import Message, Run
from harness.report import charts, forms
from harness.report.drawing import TONES
from harness.report.page import Code, Figure, Note, Number, Part, Picture, Table
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
Points = Sequence[tuple[float, float | None]]


def parts(runs: Runs) -> list[Part]:
    """Show what runs learned."""
    found: list[Part] = [_accuracy(runs)]
    groups: dict[str, list[tuple[Source, Run]]] = {}
    for source, run in runs:  # those that differ in the seed alone go together
        recipe = {name: value for name, value in run.recipe.items() if name != "seed"}
        key = json.dumps([recipe, run.upstream.mode, run.upstream.version], sort_keys=True)
        groups.setdefault(key, []).append((source, run))
    for group in groups.values():
        found += _curves(group)
    for source, run in runs:
        if run.resumed_at is not None:
            text = f"{source.name} was interrupted, and resumed from optimizer step"
            found.append(Note(f"{text} {run.resumed_at:,}.", missing=False))
    for source, run in runs:
        if run.warnings:
            rows, tones = _messages("warning", run.warnings), ["differs"] * len(run.warnings)
            found.append(Table(f"Warnings of {source.name}", (), rows, tones=tones))
        if warnings := run.summary.warnings:
            caption = f"What in the recipe of {source.name} may be unexpected, by arithmetic"
            found.append(Table(caption, (), _messages("what", warnings), folded=True))
    return found


def _messages(what: str, found: Sequence[Message]) -> list[dict[str, str]]:
    return [{what: Code(each.id), "text": each.text} for each in found]


def _tone(index: int) -> str:
    return TONES[index % len(TONES)]


def _accuracy(runs: Runs) -> Figure:
    rows, table = [], []
    for index, (source, run) in enumerate(runs):
        marks = []
        for stage, found in (("before", run.baseline), ("after", run.trained)):
            (low, high), accuracy = found.accuracy_ci95, forms.percent(found.accuracy)
            mark = charts.Mark(found.accuracy, low, high, f"{accuracy} {stage}", _tone(index))
            marks.append(mark._replace(hollow=stage == "before"))
            table.append(
                {
                    "run": source.name,
                    "when": stage,
                    "accuracy": Number(accuracy),
                    "95% interval": Number(f"{forms.percent(low)} to {forms.percent(high)}"),
                    "right format": Number(forms.percent(found.format_accuracy)),
                    "problems": Number(f"{found.total:,}"),
                }
            )
        rows.append(charts.Row(_name(source, run), marks))
    axis = charts.Axis("accuracy on the test problems, 95% interval", forms.percent, low=0, high=1)
    label = "Accuracy with 95% intervals"
    return Figure(
        "Accuracy before and after PPO",
        ("measured",),
        "Open dot: before. Full dot: after. The line through it is the 95% interval that the "
        "number of problems leaves.",
        [charts.intervals(charts.WIDE, "", rows, axis, label=label)],
        table=Table("Accuracy before and after", ("measured",), table, folded=True),
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
    legend = [(_tone(i), _name(*each)) for i, each in enumerate(shown)] if len(shown) > 1 else []
    if _known(shown, "reward_mean"):
        parts.append(_reward(shown, legend))
    panels = [_signal(shown, *signal) for signal in _SIGNALS if _known(shown, signal[0])]
    missing = [title for field, title, *_ in _SIGNALS if not _known(shown, field)]
    if shown and missing:
        parts.append(Note(f"Not reported by these runs: {', '.join(missing)}."))
    if panels:
        caption = "Each by global step, as logged."
        parts.append(Figure("What went along", ("measured",), caption, panels, legend))
    return parts


def _known(runs: Runs, field: str) -> bool:
    return any(getattr(step, field) is not None for _, run in runs for step in run.steps)


def _points(run: Run, field: str) -> Points:
    return [(float(step.step), getattr(step, field)) for step in run.steps]


def _reward(runs: Runs, legend: Sequence[tuple[str, str]]) -> Figure:
    series, found, windows = [], [], set()
    for index, (source, run) in enumerate(runs):
        points = _points(run, "reward_mean")
        window = max(1, len(points) // 20)
        windows.add(window)
        smooth = rolling(points, window)
        series.append(charts.Series(points, _tone(index), "faint"))
        series.append(charts.Series(smooth, _tone(index)))
        known = [value for _, value in smooth if value is not None]
        if known:
            change = f"from {forms.number(known[0])} to {forms.number(known[-1])}"
            found.append(f"{_name(source, run)}: {change}")
    label = f"Mean reward by global step, smoothed. {'; '.join(found)}"
    y = charts.Axis("mean reward of a step", low=0)
    return Figure(
        "Reward",
        ("measured",),
        "Faint: each step. Firm: mean of the last "
        f"{' or '.join(map(str, sorted(windows)))} steps. {'; '.join(found)}.",
        [charts.lines(charts.WIDE, "", series, _STEP, y, label=label)],
        legend,
    )


def _signal(runs: Runs, field: str, title: str, unit: str, form: charts.Form) -> Picture:
    series = [
        charts.Series(_points(run, field), _tone(index), "thin")
        for index, (_, run) in enumerate(runs)
    ]
    y, label = charts.Axis(unit, form, low=0), f"{title} by global step"
    return charts.lines(charts.HALF, title, series, _STEP, y, label=label)


def rolling(points: Points, window: int) -> Points:
    """Return at each position the mean of the last `window` values, of those that are finite.

    A value is None where none of the last is finite.
    """
    out: list[tuple[float, float | None]] = []
    for index, (at, _) in enumerate(points):
        last = [value for _, value in points[max(0, index + 1 - window) : index + 1]]
        known = [value for value in last if value is not None]
        out.append((at, sum(known) / len(known) if known else None))
    return out


def _name(source: Source, run: Run) -> str:
    name, seed = run.recipe.get("name", ""), run.recipe.get("seed")
    return f"{source.name} {name}".strip() + ("" if seed is None else f", seed {seed}")
