"""Throughput and memory against micro-batch, with the largest size that fits."""

from collections.abc import Callable, Mapping, Sequence

from harness.artifacts.bench import Bench, Benchmark
from harness.artifacts.plan import GIB, LargestMicroBatch, Plan, Program, Setting
from harness.report import charts, forms
from harness.report.drawing import TONES
from harness.report.page import (
    PANEL,
    Basis,
    Figure,
    Note,
    Part,
    Picture,
    Table,
    in_order,
    picture,
)
from harness.report.reading import Source

SWEEP = "python -m harness plan --preset gemma3-1b --chip v6e-1 --sweep --json plan.json"
# Which programs a setting sizes.
_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "rollout_micro_batch_size": ("prefill", "decode", "rollout"),
    "compute_logps_micro_batch_size": ("logps", "reference_logps", "values"),
    "train_micro_batch_size": ("actor_step", "critic_step"),
}
_SIZE = charts.Axis("sequences in a call", forms.number, log=True)


def program(each: Benchmark) -> str:
    """Return the program that a benchmark is of."""
    if each.group in (None, "memory"):
        return str((each.params or {}).get("name", each.name))
    return str(each.group)


def _panel(
    name: str,
    what: str,
    series: Sequence[charts.Series],
    y: charts.Axis,
    rules: Sequence[charts.Rule] = (),
) -> Picture:
    """Draw values of one program against its micro-batch."""
    values = "; ".join(
        f"{y.form(value or 0)} at {forms.number(size)}" for size, value in series[0].points
    )
    label = f"{what} of {name} against micro-batch: {values}"
    label += "".join(f"; {rule.name}" for rule in rules)
    height = 200 + 16 * sum(rule.axis == "x" for rule in rules)
    return picture(
        lambda w: charts.lines(series, _SIZE, y, label=label, width=w, height=height, rules=rules),
        PANEL,
        name,
    )


def of_bench(source: Source, bench: Bench) -> list[Part]:
    """Show throughput and peaks of memory of benchmarks."""
    parts: list[Part] = []
    timed = [each for each in bench.benchmarks if each.group != "memory" and each.stats.median > 0]
    sized = [each for each in timed if each.extra_info.tokens and each.extra_info.micro_batch]
    if sized:
        parts.append(_throughput(source, sized, timed))
    else:
        parts.append(Note(f"{source.name} reports no tokens and micro-batch: no throughput."))
    peaks = _peaks(bench.benchmarks)
    if peaks:
        parts.append(_peak_figure(source, peaks))
    else:
        parts.append(Note(f"{source.name} reports no peak of memory."))
    return parts


def _dtype(each: Benchmark) -> str:
    return each.extra_info.dtype or "unknown type"


def _throughput(source: Source, sized: Sequence[Benchmark], timed: Sequence[Benchmark]) -> Figure:
    found: dict[str, dict[str, list[Benchmark]]] = {}
    for each in sorted(sized, key=lambda each: each.extra_info.micro_batch or 0):
        found.setdefault(program(each), {}).setdefault(_dtype(each), []).append(each)
    dtypes = dict.fromkeys(dtype for kinds in found.values() for dtype in kinds)
    tones = {dtype: TONES[index % len(TONES)] for index, dtype in enumerate(dtypes)}
    y = charts.Axis("tokens a second", forms.rate, low=0)
    return Figure(
        title=f"Throughput against micro-batch, {source.name}",
        basis=("measured",),
        pictures=[
            _panel(name, y.title, [_speeds(each, tones[dtype]) for dtype, each in kinds.items()], y)
            for name, kinds in found.items()
        ],
        caption="Tokens a second at the median of the rounds; the upright line spans the "
        "middle half of the rounds. Each scale begins at 0 and is its own.",
        legend=[(tone, dtype) for dtype, tone in tones.items()],
        table=Table(
            (
                *("program", "type", "micro-batch", "median", "middle half", "tokens/s"),
                *("compile, s", "of the roofline"),
            ),
            [_speed_row(each) for each in timed],
            ("measured",),
            "Times of the benchmarks",
            figures=range(2, 8),
            folded=True,
            code={0},
        ),
    )


def _speeds(benchmarks: Sequence[Benchmark], tone: str) -> charts.Series:
    points, spans = [], []
    for each in benchmarks:
        size, tokens = float(each.extra_info.micro_batch or 1), each.extra_info.tokens or 0
        points.append((size, tokens / each.stats.median))
        if each.stats.q1 > 0 and each.stats.q3 > 0:
            spans.append((size, tokens / each.stats.q3, tokens / each.stats.q1))
    return charts.Series(tuple(points), tone, "dots", tuple(spans))


def _speed_row(each: Benchmark) -> tuple[str, ...]:
    info, stats = each.extra_info, each.stats

    def known(value: float | None, form: Callable[[float], str]) -> str:
        return forms.NOT_REPORTED if value is None else form(value)

    return (
        program(each),
        _dtype(each),
        known(info.micro_batch, str),
        forms.seconds(stats.median),
        f"{forms.seconds(stats.q1)} to {forms.seconds(stats.q3)}",
        known(info.tokens and info.tokens / stats.median, forms.rate),
        known(info.compile_seconds, forms.number),
        known(info.roofline_fraction, forms.percent),
    )


_Peaks = dict[str, dict[tuple[str, Basis], dict[int, int]]]


def _peaks(benchmarks: Sequence[Benchmark]) -> _Peaks:
    """Gather bytes by program, by type and basis, by micro-batch."""
    found: _Peaks = {}
    for each in benchmarks:
        info = each.extra_info
        compiled = info.compiled_peak_bytes
        compiled = info.peak_bytes if compiled is None else compiled
        peaks: dict[Basis, int | None] = {
            "compiled": compiled,
            "measured": info.measured_peak_bytes,
        }
        for basis, peak in peaks.items():
            if info.micro_batch and peak is not None:
                sizes = found.setdefault(program(each), {}).setdefault((_dtype(each), basis), {})
                sizes[info.micro_batch] = peak
    return found


def _peak_figure(source: Source, peaks: _Peaks) -> Figure:
    keys = dict.fromkeys(key for found in peaks.values() for key in found)
    tones = {key: TONES[index % len(TONES)] for index, key in enumerate(keys)}
    pictures, rows = [], []
    for name, found in peaks.items():
        unit, unit_name = forms.bytes_unit(max(max(sizes.values()) for sizes in found.values()))
        series = [
            charts.Series(
                tuple((float(size), peak / unit) for size, peak in sorted(sizes.items())),
                tones[key],
                "dots",
            )
            for key, sizes in found.items()
        ]
        y = charts.Axis(f"peak, {unit_name}", low=0)
        pictures.append(_panel(name, "Peak memory", series, y))
        rows += [
            (name, *key, str(size), forms.size(peak))
            for key, sizes in found.items()
            for size, peak in sorted(sizes.items())
        ]
    bases = in_order([basis for _, basis in keys])
    silent = " Measured peak and limit: not reported by this device."
    return Figure(
        title=f"Peak memory against micro-batch, {source.name}",
        basis=bases,
        pictures=pictures,
        caption="What one program takes by itself." + ("" if "measured" in bases else silent),
        legend=[(tone, ", ".join(key)) for key, tone in tones.items()],
        table=Table(
            ("program", "type", "basis", "micro-batch", "peak"),
            rows,
            bases,
            "Peaks by program and micro-batch",
            figures={3, 4},
            folded=True,
            code={0},
        ),
    )


def of_plan(source: Source, plan: Plan) -> list[Part]:
    """Show memory and least times of a plan's programs."""
    parts: list[Part] = []
    known = [each for each in plan.programs if each.peak_bytes is not None and each.micro_batch]
    if known:
        parts.append(_plan_peaks(source, plan, known))
    else:
        parts.append(Note(f"{source.name} reports no compiled size of a program."))
    if not plan.largest_micro_batches:
        text = f"{source.name}: the largest micro-batch that fits was not searched for."
        parts.append(Note(text, SWEEP))
    settings = [each for each in plan.recommendation.settings if each.bounds]
    if settings:
        parts.append(_bounds(source, plan, settings))
    return parts


def _limits(largest: Sequence[LargestMicroBatch], *programs: str) -> list[charts.Rule]:
    """Return up to where some programs fit: by themselves, and beside what else lives there."""
    rules = []
    for each in largest:
        if not {each.name, *each.programs} & set(programs):
            continue
        if each.compiles:
            # Where nothing was refused, the largest size is somewhere beyond.
            name = f"fits {each.compiles:,}" + ("" if each.refused else " and more")
            rules.append(charts.Rule(float(each.compiles), name, "x"))
        if about := each.fits_beside_the_rest_about:
            rules.append(charts.Rule(float(about), f"about {about:,}", "x", estimated=True))
    return rules


def _plan_peaks(source: Source, plan: Plan, known: Sequence[Program]) -> Figure:
    by_name: dict[str, list[tuple[float, float]]] = {each.name: [] for each in known}
    for each in sorted(known, key=lambda each: each.micro_batch):
        by_name[each.name].append((float(each.micro_batch), (each.peak_bytes or 0) / GIB))
    chip = charts.Rule(plan.hbm_bytes / GIB, f"HBM {plan.hbm_bytes / GIB:.2f} GiB")
    rules = {name: [chip, *_limits(plan.largest_micro_batches, name)] for name in by_name}
    estimated = any(rule.estimated for each in rules.values() for rule in each)
    y = charts.Axis("peak, GiB", low=0)
    return Figure(
        title=f"Memory of each program against micro-batch, {source.name}",
        basis=("compiled", "predicted") if estimated else ("compiled",),
        pictures=[
            _panel(
                name, "Peak memory", [charts.Series(tuple(points), "s0", "dots")], y, rules[name]
            )
            for name, points in by_name.items()
        ],
        caption="A program that has the chip to itself, as the compiler judges it. Level line: "
        "what the chip has. Upright line: the largest micro-batch that compiles; dashed: "
        "about how many sequences fit beside what else lives on the chip.",
        table=Table(
            ("program", "micro-batch", "peak", "fits by itself"),
            [
                (each.name, f"{each.micro_batch:,}", forms.size(each.peak_bytes), _fits(each))
                for each in plan.programs
            ],
            ("compiled",),
            f"Programs on {plan.chip}",
            figures={1, 2},
            folded=True,
            code={0},
        ),
    )


def _fits(each: Program) -> str:
    if each.fits:
        return "yes"
    return each.refused.message if each.refused else "no"


def _bounds(source: Source, plan: Plan, settings: Sequence[Setting]) -> Figure:
    pictures, rows, estimated = [], [], False
    y = charts.Axis("least s a global step", low=0)
    for setting in settings:
        name = setting.setting.removeprefix("batching.")
        limits = _limits(plan.largest_micro_batches, *_SETTINGS.get(name, ()))
        # Of the programs of a setting, the one that fits least decides.
        nearest = sorted(limits, key=lambda rule: rule.at)[:1]
        estimated = estimated or any(rule.estimated for rule in nearest)
        bounds = sorted(setting.bounds.items())
        series = charts.Series(tuple((float(size), least) for size, least in bounds), "s1", "dots")
        pictures.append(_panel(name, "Least seconds a global step", [series], y, nearest))
        rows += [
            (
                setting.setting,
                str(size),
                forms.seconds(least),
                "the recipe's" if size == setting.reference else "",
                "recommended" if size == setting.recommended else "",
            )
            for size, least in bounds
        ]
    lines = "Upright line: the most sequences that fit; dashed where that is an estimate."
    return Figure(
        title=f"Least time against micro-batch, {source.name}",
        basis=("bound", "predicted") if estimated else ("bound",),
        pictures=pictures,
        caption="What the programs of a setting take in a global step at least, by published "
        "rates. "
        + (
            lines
            if plan.largest_micro_batches
            else "Whether a size fits is another question: see memory above."
        ),
        table=Table(
            ("setting", "micro-batch", "least a global step", "", " "),
            rows,
            ("bound",),
            "Least times by micro-batch",
            figures={1, 2},
            folded=True,
            code={0},
        ),
    )
