"""Throughput and memory against micro-batch, with the wall drawn."""

from collections.abc import Mapping, Sequence

from harness.report import charts, kinds, svg
from harness.report.learning import TONES
from harness.report.page import (
    PANEL,
    Basis,
    Figure,
    Note,
    Part,
    Picture,
    Section,
    Table,
    in_order,
    picture,
)
from harness.report.reading import Source, Sources

_COMMAND = "pytest benchmarks --benchmark-only --benchmark-json bench.json"
_SWEEP = "python -m harness plan --preset gemma3-1b --chip v6e-1 --sweep --json plan.json"
# Which programs a setting sizes.
_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "rollout_micro_batch": ("prefill", "decode", "rollout"),
    "logps_micro_batch": ("logps", "reference_logps", "values"),
    "train_micro_batch": ("actor_step", "critic_step"),
}


def section(sources: Sources) -> Section:
    """Show what changes with the micro-batch."""
    parts: list[Part] = []
    benches = sources.of(kinds.Bench)
    if not benches:
        parts.append(Note("No benchmarks were given: no throughput is known.", _COMMAND, True))
    for source, bench in benches:
        parts += _bench(source, bench)
    plans = sources.of(kinds.Plan)
    if not plans:
        parts.append(Note("No plan was given: no wall is known.", _SWEEP, True))
    for source, plan in plans:
        parts += _plan(source, plan)
    return Section("sizes", "How large a micro-batch?", tuple(parts))


def program(each: kinds.Benchmark) -> str:
    """Return which program a benchmark is of."""
    if each.group in (None, "memory"):
        return str((each.params or {}).get("name", each.name))
    return str(each.group)


def _by_program(
    benchmarks: Sequence[kinds.Benchmark],
) -> dict[str, dict[str, list[kinds.Benchmark]]]:
    """Groups benchmarks that tell their size by program and type."""
    found: dict[str, dict[str, list[kinds.Benchmark]]] = {}
    for each in sorted(benchmarks, key=lambda b: b.extra_info.micro_batch or 0):
        if each.extra_info.micro_batch:
            kind = each.extra_info.dtype or "type not told"
            found.setdefault(program(each), {}).setdefault(kind, []).append(each)
    return found


def _bench(source: Source, bench: kinds.Bench) -> list[Part]:
    timed = [b for b in bench.benchmarks if b.group != "memory" and b.stats.median > 0]
    speeds = _by_program([b for b in timed if b.extra_info.tokens])
    dtypes = list(dict.fromkeys(kind for kinds_ in speeds.values() for kind in kinds_))
    parts: list[Part] = []
    if speeds:
        parts.append(
            Figure(
                title=f"Throughput against micro-batch, {source.name}",
                basis=("measured",),
                pictures=tuple(_speed(name, found, dtypes) for name, found in speeds.items()),
                caption="Tokens a second at the median of the rounds; the upright line spans the "
                "middle half of the rounds. Each scale begins at 0 and is its own.",
                legend=tuple((f"key {_tone(dtypes, kind)}", kind) for kind in dtypes),
                table=_speed_table(timed),
            )
        )
    else:
        said = f"{source.name} tells no tokens and micro-batch: no throughput can be drawn."
        parts.append(Note(said, missing=True))
    peaks = _peaks(bench.benchmarks)
    if peaks:
        parts.append(_peak_figure(source, peaks))
    else:
        parts.append(Note(f"{source.name} tells no peak of memory.", missing=True))
    return parts


def _tone(names: Sequence[str], name: str) -> str:
    return TONES[list(names).index(name) % len(TONES)]


def _speed(
    name: str, found: Mapping[str, Sequence[kinds.Benchmark]], dtypes: Sequence[str]
) -> Picture:
    series = []
    for kind, benchmarks in found.items():
        points, spans = [], []
        for each in benchmarks:
            rows, tokens = float(each.extra_info.micro_batch or 1), each.extra_info.tokens or 0
            points.append((rows, tokens / each.stats.median))
            if each.stats.q1 > 0 and each.stats.q3 > 0:
                spans.append((rows, tokens / each.stats.q3, tokens / each.stats.q1))
        series.append(charts.Series("", tuple(points), _tone(dtypes, kind), "dots", tuple(spans)))
    said = "; ".join(
        f"{kind} {svg.rate(points.points[-1][1] or 0)} at {svg.number(points.points[-1][0])}"
        for kind, points in zip(found, series, strict=True)
    )
    return picture(
        lambda w: charts.lines(
            series,
            charts.Axis("sequences in a call", svg.number, log=True),
            charts.Axis("tokens a second", svg.rate, low=0),
            label=f"Tokens a second of {name} against micro-batch: {said}",
            width=w,
            height=190,
        ),
        PANEL,
        name,
    )


def _speed_table(timed: Sequence[kinds.Benchmark]) -> Table:
    rows = []
    for each in timed:
        info = each.extra_info
        speed = info.tokens / each.stats.median if info.tokens else None
        fraction = info.roofline_fraction
        rows.append(
            (
                program(each),
                info.dtype or "not told",
                str(info.micro_batch or "not told"),
                svg.seconds(each.stats.median),
                f"{svg.seconds(each.stats.q1)} to {svg.seconds(each.stats.q3)}",
                "not told" if speed is None else svg.rate(speed),
                "not told" if info.compile_seconds is None else svg.number(info.compile_seconds),
                "no roof known" if fraction is None else svg.percent(fraction),
            )
        )
    return Table(
        head=(
            *("program", "type", "micro-batch", "median", "middle half", "tokens/s"),
            *("compile, s", "of the roof"),
        ),
        rows=tuple(rows),
        basis=("measured",),
        caption="Times of the benchmarks",
        figures=frozenset({2, 3, 4, 5, 6, 7}),
        folded=True,
        code=frozenset({0}),
    )


_Peaks = dict[str, dict[tuple[str, Basis], dict[int, int]]]


def _peaks(benchmarks: Sequence[kinds.Benchmark]) -> _Peaks:
    """Gather bytes by program, by type and basis, by micro-batch."""
    found: _Peaks = {}
    for each in benchmarks:
        info = each.extra_info
        compiled = info.compiled_peak_bytes
        compiled = info.peak_bytes if compiled is None else compiled
        told: tuple[tuple[Basis, int | None], ...] = (
            ("compiled", compiled),
            ("measured", info.measured_peak_bytes),
        )
        for basis, peak in told:
            if info.micro_batch and peak is not None:
                key = (info.dtype or "type not told", basis)
                sizes = found.setdefault(program(each), {}).setdefault(key, {})
                sizes[info.micro_batch] = peak
    return found


def _peak_figure(source: Source, peaks: _Peaks) -> Figure:
    names = list(dict.fromkeys(key for found in peaks.values() for key in found))
    tones = {key: TONES[index % len(TONES)] for index, key in enumerate(names)}
    pictures, table = [], []
    for name, found in peaks.items():
        unit, unit_name = svg.bytes_unit(max(max(sizes.values()) for sizes in found.values()))
        series = [
            charts.Series(
                "",
                tuple((float(rows), peak / unit) for rows, peak in sorted(sizes.items())),
                tones[key],
                "dots",
            )
            for key, sizes in found.items()
        ]
        pictures.append(_peak_panel(name, series, unit_name))
        table += [
            (name, kind, basis, str(rows), svg.size(peak))
            for (kind, basis), sizes in found.items()
            for rows, peak in sorted(sizes.items())
        ]
    bases = in_order([basis for _, basis in names])
    note = ""
    if "measured" not in bases:
        note = " The device tells no peak, and no limit: there is no wall to draw."
    return Figure(
        title=f"Peak memory against micro-batch, {source.name}",
        basis=bases,
        pictures=tuple(pictures),
        caption="What one program takes by itself." + note,
        legend=tuple((f"key {tones[key]}", f"{key[0]}, {key[1]}") for key in names),
        table=Table(
            head=("program", "type", "basis", "micro-batch", "peak"),
            rows=tuple(table),
            basis=bases,
            caption="Peaks by program and micro-batch",
            figures=frozenset({3, 4}),
            folded=True,
            code=frozenset({0}),
        ),
    )


def _peak_panel(
    name: str,
    series: Sequence[charts.Series],
    unit: str,
    rules: Sequence[charts.Rule] = (),
    form: svg.Format = svg.number,
) -> Picture:
    last = series[0].points[-1]
    said = f"{svg.number(last[1] or 0)} {unit} at {svg.number(last[0])}"
    walls = "".join(f"; {rule.name}" for rule in rules)
    return picture(
        lambda w: charts.lines(
            series,
            charts.Axis("sequences in a call", svg.number, log=True),
            charts.Axis(f"peak, {unit}", form, low=0),
            label=f"Peak memory of {name} against micro-batch: {said}{walls}",
            width=w,
            height=200 + 16 * sum(rule.axis == "x" for rule in rules),
            rules=rules,
        ),
        PANEL,
        name,
    )


def _plan(source: Source, plan: kinds.Plan) -> list[Part]:
    parts: list[Part] = []
    known = [each for each in plan.programs if each.peak_bytes is not None and each.micro_batch]
    if known:
        parts.append(_plan_peaks(source, plan, known))
    else:
        parts.append(Note(f"{source.name} tells no compiled size of a program.", missing=True))
    if not plan.walls:
        said = f"{source.name}: no wall was looked for, so that only the chip's line is drawn."
        parts.append(Note(said, _SWEEP, True))
    settings = [each for each in plan.recommendation.settings if each.bounds]
    if settings:
        parts.append(_bounds(source, plan, settings))
    return parts


def _plan_peaks(source: Source, plan: kinds.Plan, known: Sequence[kinds.Program]) -> Figure:
    unit = 2**30
    by_name: dict[str, list[tuple[float, float]]] = {each.name: [] for each in known}
    for each in sorted(known, key=lambda program: program.micro_batch):
        by_name[each.name].append((float(each.micro_batch), (each.peak_bytes or 0) / unit))
    limit = charts.Rule(plan.hbm_bytes / unit, f"HBM {plan.hbm_bytes / unit:.2f} GiB")
    pictures, guessed = [], False
    for name, points in by_name.items():
        walls = [wall for wall in plan.walls if name in (wall.name, *wall.programs)]
        rules = [rule for wall in walls for rule in _walls(wall)]
        guessed = guessed or any(rule.style == "guess" for rule in rules)
        series = [charts.Series("", tuple(points), "s0", "dots")]
        pictures.append(_peak_panel(name, series, "GiB", (limit, *rules)))
    return Figure(
        title=f"Memory of each program against micro-batch, {source.name}",
        basis=("compiled", "predicted") if guessed else ("compiled",),
        pictures=tuple(pictures),
        caption="A program that has the chip to itself, as the compiler judges it. Level line: "
        "what the chip has. Upright line: the wall, the most sequences that compile; dashed: "
        "about how many fit beside what else lives on the chip.",
        table=Table(
            head=("program", "micro-batch", "peak", "fits by itself"),
            rows=tuple(
                (
                    each.name,
                    f"{each.micro_batch:,}",
                    "not told" if each.peak_bytes is None else svg.size(each.peak_bytes),
                    "yes" if each.fits else (each.refused.message if each.refused else "no"),
                )
                for each in plan.programs
            ),
            basis=("compiled",),
            caption=f"Programs on {plan.chip}",
            figures=frozenset({1, 2}),
            folded=True,
            code=frozenset({0}),
        ),
    )


def _walls(wall: kinds.Wall) -> list[charts.Rule]:
    """Return where a program stops fitting: by itself, and beside what else lives there."""
    rules = []
    if wall.compiles:
        # Where nothing was refused, the wall is somewhere beyond.
        said = f"wall {wall.compiles:,}" if wall.refused else f"{wall.compiles:,} and more"
        rules.append(charts.Rule(float(wall.compiles), said, "x"))
    if about := wall.fits_beside_the_rest_about:
        rules.append(charts.Rule(float(about), f"about {about:,}", "x", "guess"))
    return rules


def _bounds(source: Source, plan: kinds.Plan, settings: Sequence[kinds.Setting]) -> Figure:
    pictures, rows, guessed = [], [], False
    for setting in settings:
        sizes = {size: least for size, least in sorted(setting.bounds.items()) if size > 0}
        members = _SETTINGS.get(setting.setting.rpartition(".")[2], ())
        walls = [rule for wall in plan.walls if wall.name in members for rule in _walls(wall)]
        # Of the programs of a setting, the one that fits least decides.
        rules = sorted(walls, key=lambda rule: rule.at)[:1]
        guessed = guessed or any(rule.style == "guess" for rule in rules)
        points = tuple((float(size), least) for size, least in sizes.items())
        said = "; ".join(f"{svg.seconds(least)} at {size}" for size, least in sizes.items())
        pictures.append(
            picture(
                lambda w, points=points, rules=rules, said=said: charts.lines(
                    [charts.Series("", points, "s1", "dots")],
                    charts.Axis("sequences in a call", svg.number, log=True),
                    charts.Axis("least s a global step", svg.number, low=0),
                    label=f"Least seconds a global step against micro-batch: {said}",
                    width=w,
                    height=200,
                    rules=rules,
                ),
                PANEL,
                setting.setting.removeprefix("batching."),
            )
        )
        choice = setting.recommended
        rows += [
            (
                setting.setting,
                str(size),
                svg.seconds(least),
                "the recipe's" if size == setting.reference else "",
                "recommended" if size == choice else "",
            )
            for size, least in sizes.items()
        ]
    return Figure(
        title=f"Least time against micro-batch, {source.name}",
        basis=("bound", "predicted") if guessed else ("bound",),
        pictures=tuple(pictures),
        caption="What the programs of a setting take in a global step at least, by published "
        "rates. "
        + (
            "Upright line: the most sequences that fit; dashed where that is an estimate."
            if plan.walls
            else "Whether a size fits is another question: see the memory above."
        ),
        table=Table(
            head=("setting", "micro-batch", "least a global step", "", " "),
            rows=tuple(rows),
            basis=("bound",),
            caption="Least times by micro-batch",
            figures=frozenset({1, 2}),
            folded=True,
            code=frozenset({0}),
        ),
    )
