"""Throughput and memory against micro-batch, with the largest size that fits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from harness.artifacts.bench import Bench, Benchmark
from harness.artifacts.plan import GIB, Plan, Program, Setting
from harness.programs import SIZED_BY
from harness.report import charts, forms
from harness.report.drawing import TONES
from harness.report.page import Basis, Code, Figure, Note, Number, Part, Picture, Table, in_order
from harness.report.reading import Source

_Key = TypeVar("_Key")
SWEEP = "python -m harness plan --preset gemma3-1b --chip v6e-1 --sweep --json plan.json"
_SIZE = charts.Axis("sequences in a call", log=True)


class _Panel(NamedTuple):
    """What is drawn of one program: lines over micro-batches, and limits."""

    series: list[charts.Series]
    rules: Sequence[charts.Rule] = ()


def _pictures(
    what: str, unit: str, panels: Mapping[str, _Panel], form: charts.Form = forms.number
) -> list[Picture]:
    """Draw each program's values against its micro-batch."""
    y, found = charts.Axis(unit, form, low=0), []
    for name, (series, rules) in panels.items():
        values = (f"{form(value or 0)} at {forms.number(size)}" for size, value in series[0].points)
        label = f"{what} of {name} against micro-batch: {'; '.join(values)}"
        label += "".join(f"; {rule.name}" for rule in rules)
        found.append(charts.lines(charts.PANEL, name, series, _SIZE, y, label=label, rules=rules))
    return found


def _tones(keys: Iterable[_Key]) -> dict[_Key, str]:
    """Give each key a colour, in the order in which they come."""
    return {key: TONES[i % len(TONES)] for i, key in enumerate(dict.fromkeys(keys))}


def _dots(sizes: Mapping[int, float], tone: str) -> charts.Series:
    return charts.Series([(float(size), sizes[size]) for size in sorted(sizes)], tone, "dots")


def of_bench(source: Source, bench: Bench) -> list[Part]:
    """Show throughput and peaks of memory of benchmarks."""
    timed = [each for each in bench.benchmarks if each.group != "memory" and each.stats.median > 0]
    sized = [each for each in timed if each.extra_info.tokens and each.extra_info.micro_batch]
    peaks = _peaks(bench.benchmarks)
    silent = f"{source.name} reports no tokens and micro-batch: no throughput."
    return [
        _throughput(source, sized, timed) if sized else Note(silent),
        _peak_figure(source, peaks) if peaks else Note(f"{source.name} reports no peak of memory."),
    ]


def _dtype(each: Benchmark) -> str:
    return each.extra_info.dtype or "unknown type"


def _throughput(source: Source, sized: Sequence[Benchmark], timed: Sequence[Benchmark]) -> Figure:
    found: dict[str, dict[str, list[Benchmark]]] = {}
    for each in sorted(sized, key=lambda each: each.extra_info.micro_batch or 0):
        found.setdefault(each.program, {}).setdefault(_dtype(each), []).append(each)
    tones = _tones(dtype for kinds in found.values() for dtype in kinds)
    panels = {
        name: _Panel([_speeds(each, tones[dtype]) for dtype, each in kinds.items()])
        for name, kinds in found.items()
    }
    return Figure(
        f"Throughput against micro-batch, {source.name}",
        ("measured",),
        "Tokens a second at the median of the rounds; the upright line spans the middle half of "
        "the rounds. Each scale begins at 0 and is its own.",
        _pictures("tokens a second", "tokens a second", panels, forms.rate),
        [(tone, dtype) for dtype, tone in tones.items()],
        Table("Times of the benchmarks", ("measured",), [_speed_row(each) for each in timed], True),
    )


def _speeds(benchmarks: Sequence[Benchmark], tone: str) -> charts.Series:
    points, spans = [], []
    for each in benchmarks:
        size, tokens = float(each.extra_info.micro_batch or 1), each.extra_info.tokens or 0
        points.append((size, tokens / each.stats.median))
        if each.stats.q1 > 0 and each.stats.q3 > 0:
            spans.append((size, tokens / each.stats.q3, tokens / each.stats.q1))
    return charts.Series(points, tone, "dots", spans)


def _speed_row(each: Benchmark) -> dict[str, str]:
    info, stats = each.extra_info, each.stats
    speed = info.tokens and info.tokens / stats.median
    return {
        "program": Code(each.program),
        "type": _dtype(each),
        "micro-batch": Number(forms.known(info.micro_batch, str)),
        "median": Number(forms.seconds(stats.median)),
        "middle half": Number(f"{forms.seconds(stats.q1)} to {forms.seconds(stats.q3)}"),
        "tokens/s": Number(forms.known(speed, forms.rate)),
        "compile, s": Number(forms.known(info.compile_seconds, forms.number)),
        "of the roofline": Number(forms.known(info.roofline_fraction, forms.percent)),
    }


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
                sizes = found.setdefault(each.program, {}).setdefault((_dtype(each), basis), {})
                sizes[info.micro_batch] = peak
    return found


def _peak_figure(source: Source, peaks: _Peaks) -> Figure:
    tones = _tones(key for found in peaks.values() for key in found)
    pictures, rows = [], []
    for name, found in peaks.items():
        unit, unit_name = forms.bytes_unit(max(max(sizes.values()) for sizes in found.values()))
        series = [
            _dots({size: peak / unit for size, peak in sizes.items()}, tones[key])
            for key, sizes in found.items()
        ]
        pictures += _pictures("Peak memory", f"peak, {unit_name}", {name: _Panel(series)})
        rows += [
            {
                "program": Code(name),
                "type": dtype,
                "basis": basis,
                "micro-batch": Number(size),
                "peak": Number(forms.size(peak)),
            }
            for (dtype, basis), sizes in found.items()
            for size, peak in sorted(sizes.items())
        ]
    bases = in_order({basis for _, basis in tones})
    silent = " Measured peak and limit: not reported by this device."
    return Figure(
        f"Peak memory against micro-batch, {source.name}",
        bases,
        "What one program takes by itself." + ("" if "measured" in bases else silent),
        pictures,
        [(tone, ", ".join(key)) for key, tone in tones.items()],
        Table("Peaks by program and micro-batch", bases, rows, folded=True),
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


def _limits(plan: Plan, *programs: str) -> list[charts.Rule]:
    """Return up to where some programs fit: by themselves, and beside what else lives there."""
    rules = []
    for each in plan.largest_micro_batches:
        if not {each.name, *each.programs} & set(programs):
            continue
        if each.compiles:
            # Where nothing was refused, the largest size is somewhere beyond.
            name = f"fits {each.compiles:,}" + ("" if each.refused else " and more")
            rules.append(charts.Rule(float(each.compiles), name, upright=True))
        if about := each.fits_beside_the_rest_about:
            rules.append(charts.Rule(float(about), f"about {about:,}", True, estimated=True))
    return rules


def _bases(basis: Basis, panels: Mapping[str, _Panel]) -> tuple[Basis, ...]:
    estimated = any(rule.estimated for panel in panels.values() for rule in panel.rules)
    return (basis, "predicted") if estimated else (basis,)


def _plan_peaks(source: Source, plan: Plan, known: Sequence[Program]) -> Figure:
    peaks: dict[str, dict[int, float]] = {}
    for each in known:
        peaks.setdefault(each.name, {})[each.micro_batch] = (each.peak_bytes or 0) / GIB
    chip = charts.Rule(plan.hbm_bytes / GIB, f"HBM {plan.hbm_bytes / GIB:.2f} GiB")
    panels = {
        name: _Panel([_dots(sizes, "s0")], [chip, *_limits(plan, name)])
        for name, sizes in peaks.items()
    }
    rows = [
        {
            "program": Code(each.name),
            "micro-batch": Number(f"{each.micro_batch:,}"),
            "peak": Number(forms.size(each.peak_bytes)),
            "fits by itself": _fits(each),
        }
        for each in plan.programs
    ]
    return Figure(
        f"Memory of each program against micro-batch, {source.name}",
        _bases("compiled", panels),
        "A program that has the chip to itself, as the compiler judges it. Level line: what the "
        "chip has. Upright line: the largest micro-batch that compiles; dashed: about how many "
        "sequences fit beside what else lives on the chip.",
        _pictures("Peak memory", "peak, GiB", panels),
        table=Table(f"Programs on {plan.chip}", ("compiled",), rows, folded=True),
    )


def _fits(each: Program) -> str:
    if each.fits:
        return "yes"
    return each.refused.message if each.refused else "no"


def _bounds(source: Source, plan: Plan, settings: Sequence[Setting]) -> Figure:
    panels, rows = {}, []
    for each in settings:
        name = each.setting.removeprefix("batching.")
        # Of the programs of a setting, the one that fits least decides.
        nearest = sorted(_limits(plan, *SIZED_BY.get(name, ())), key=lambda rule: rule.at)[:1]
        panels[name] = _Panel([_dots(each.bounds, "s1")], nearest)
        rows += [
            {
                "setting": Code(each.setting),
                "micro-batch": Number(size),
                "least a global step": Number(forms.seconds(least)),
                "": "the recipe's" if size == each.reference else "",
                " ": "recommended" if size == each.recommended else "",
            }
            for size, least in sorted(each.bounds.items())
        ]
    return Figure(
        f"Least time against micro-batch, {source.name}",
        _bases("bound", panels),
        "What the programs of a setting take in a global step at least, by published rates. "
        + (
            "Upright line: the most sequences that fit; dashed where that is an estimate."
            if plan.largest_micro_batches
            else "Whether a size fits is another question: see memory above."
        ),
        _pictures("Least seconds a global step", "least s a global step", panels),
        table=Table("Least times by micro-batch", ("bound",), rows, folded=True),
    )
