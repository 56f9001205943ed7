"""What each result says in a word, the whole in a sentence, and where it was measured."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from harness.report import kinds, svg
from harness.report.conformance import counted
from harness.report.page import Answer, Basis, Gravity, Note, Part, Section, Table, in_order
from harness.report.reading import Source, Sources

_GATE: Mapping[str, Gravity] = {
    "FAIL": "no",
    "NOT COMPARABLE": "open",
    "INCONCLUSIVE": "open",
    "PASS": "yes",
}
# How each tier of the gate comes to its figures.
TIER_BASIS: Mapping[str, Basis] = {"exact": "compiled", "time": "measured", "learning": "measured"}
_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "qwix", "optax", "orbax-checkpoint", "numpy")


def answers(sources: Sources) -> tuple[Answer, ...]:
    """Return each result's answer, in the order of the results."""
    return tuple(_answer(each) for each in sources.used)


def headline(given: tuple[Answer, ...]) -> str:
    """Put the answers in one sentence, the gravest first."""
    count = Counter(each.gravity for each in given)
    words = (
        ("no", "say no"),
        ("open", "could not decide"),
        ("yes", "say yes"),
        ("none", "only measure"),
    )
    singular = {"say no": "says no", "say yes": "says yes", "only measure": "only measures"}
    said = [
        f"{count[gravity]} {singular.get(word, word) if count[gravity] == 1 else word}"
        for gravity, word in words
        if count[gravity]
    ]
    return f"{_many(len(given), 'result')}: {', '.join(said)}."


def _answer(source: Source) -> Answer:
    gravity, word, said, basis = _say(source.tree)
    return Answer(gravity, word, source.name, said, basis, source.path.name)


def _say(tree: kinds.Tree) -> tuple[Gravity, str, str, tuple[Basis, ...]]:
    match tree:
        case kinds.Run():
            return _say_run(tree)
        case kinds.Check():
            return _say_check(tree)
        case kinds.Plan():
            return _say_plan(tree)
        case kinds.Bench():
            return _say_bench(tree)
        case kinds.Gate():
            return _say_gate(tree)


def _say_run(run: kinds.Run) -> tuple[Gravity, str, str, tuple[Basis, ...]]:
    before, after = run.baseline, run.trained
    name = run.recipe.get("name", "a recipe")
    said = (
        f"{name} on Tunix {run.upstream.version} ({run.upstream.mode}): accuracy "
        f"{svg.percent(before.accuracy)} before PPO, {svg.percent(after.accuracy)} after, "
        f"of {after.total:,} problems"
    )
    if run.gained:
        return "yes", "LEARNED", f"{said}; above the 95% interval before.", ("measured",)
    if run.lost:
        return "no", "GOT WORSE", f"{said}; below the 95% interval before.", ("measured",)
    return "no", "NO GAIN", f"{said}; within the 95% interval before.", ("measured",)


def _say_check(check: kinds.Check) -> tuple[Gravity, str, str, tuple[Basis, ...]]:
    said = (
        f"Tunix {check.version} ({check.mode}), properties: "
        f"{', '.join(counted(check).values()) or 'nothing was looked at'}."
    )
    if not check.properties:
        return "open", "NOTHING CHECKED", said, ("measured",)
    return (
        ("yes", "AS KNOWN", said, ("measured",))
        if check.ok
        else (
            "no",
            "NOT AS KNOWN",
            said,
            ("measured",),
        )
    )


def _say_plan(plan: kinds.Plan) -> tuple[Gravity, str, str, tuple[Basis, ...]]:
    name = plan.recipe.get("name", "the recipe")
    place = f"{name} on {plan.chip}"
    known = [each for each in plan.phases if each.peak_bytes is not None]
    refused = [each.name for each in plan.phases if each.peak_bytes is None]
    if not plan.phases:
        return "open", "NOTHING PLANNED", f"{place}: no phase was looked at.", ("compiled",)
    if refused:
        said = f"{place}: the compiler refused {', '.join(refused)}."
        return "no", "DOES NOT FIT", said, ("compiled",)
    peak = max(known, key=lambda each: each.peak_bytes or 0)
    said = (
        f"{place}: the peak is {svg.size(peak.peak_bytes or 0)} in the {peak.name}, of "
        f"{svg.size(plan.hbm_bytes)} a chip"
    )
    if plan.fits:
        return "yes", "FITS", f"{said}.", ("compiled",)
    over = ", ".join(each.name for each in plan.phases if not each.fits)
    return "no", "DOES NOT FIT", f"{said}; too much: {over}.", ("compiled",)


def _say_bench(bench: kinds.Bench) -> tuple[Gravity, str, str, tuple[Basis, ...]]:
    names = {each.group or each.name for each in bench.benchmarks} - {"memory"}
    commit = (bench.commit_info.id or "an unknown commit")[:10]
    dirty = ", with changes that are not committed" if bench.commit_info.dirty else ""
    said = (
        f"{_many(len(bench.benchmarks), 'benchmark')} of {_many(len(names), 'program')} at "
        f"commit {commit}{dirty}; the gate judges them."
    )
    return "none", "TIMED", said, ("measured", "compiled")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _say_gate(gate: kinds.Gate) -> tuple[Gravity, str, str, tuple[Basis, ...]]:
    tiers = ", ".join(f"{tier} {verdict}" for tier, verdict in gate.tiers.items())
    found: set[Basis] = {TIER_BASIS.get(each.tier, "measured") for each in gate.findings}
    said = f"{gate.candidate} against {gate.baseline}: {tiers or 'no tier'}."
    return _GATE[gate.verdict], gate.verdict, said, in_order(found)


def environment(sources: Sources) -> Section:
    """Return where everything was measured, each fact once, and what differs."""
    facts: dict[str, dict[str, list[str]]] = {}
    for source in sources.used:
        for fact, value in _facts(source.tree):
            facts.setdefault(fact, {}).setdefault(value, []).append(source.name)
    rows, tones, alike = [], [], []
    for fact, values in facts.items():
        if fact in _PACKAGES and len(values) == 1:
            alike.append(f"{fact} {next(iter(values))}")
            continue
        differs = len(values) > 1
        for value, names in values.items():
            rows.append((fact, value, ", ".join(names)))
            tones.append("differs" if differs else "")
    if alike:
        rows.append(("packages", ", ".join(alike), "all that tell them"))
        tones.append("")
    parts: list[Part] = [
        Table(
            head=("what", "value", "told by"),
            rows=tuple(rows),
            basis=(),
            caption="Where it ran or was compiled. A bar marks what is not the same in all.",
            tones=tuple(tones),
        )
    ]
    silent = [s.name for s in sources.used if not any(_facts(s.tree))]
    if silent:
        parts.append(
            Note(f"No environment is told by: {', '.join(silent)}.", missing=True),
        )
    return Section("environment", "Environment", tuple(parts))


def _facts(tree: kinds.Tree) -> Iterator[tuple[str, str]]:
    match tree:
        case kinds.Run():
            yield "Tunix", f"{tree.upstream.version}, {tree.upstream.mode}"
            yield "recipe", str(tree.recipe.get("name", "unnamed"))
            yield from _environment(tree.environment)
        case kinds.Check():
            yield "Tunix", f"{tree.version}, {tree.mode}"
        case kinds.Plan():
            if tree.upstream is not None:
                yield "Tunix", f"{tree.upstream.version}, {tree.upstream.mode}"
            if "name" in tree.recipe:
                yield "recipe", str(tree.recipe["name"])
            yield "device", f"{tree.chip}, compiled for, not here"
            yield from _packages(tree.versions)
        case kinds.Bench():
            told = tree.harness.conditions
            version = tree.harness.judged.get("google-tunix")
            if version:
                yield "Tunix", str(version)
            if "name" in tree.harness.recipe:
                yield "recipe", str(tree.harness.recipe["name"])
            if told.get("device"):
                yield "device", f"{told['device']} \N{MULTIPLICATION SIGN} {told.get('devices', 1)}"
            if brand := tree.machine_info.cpu.get("brand_raw"):
                yield "processor", f"{brand}, {tree.machine_info.cpu.get('count', '?')} cores"
            if tree.machine_info.python_version:
                yield "Python", tree.machine_info.python_version
            names = {key.removeprefix("packages."): value for key, value in told.items()}
            yield from _packages({name: names[name] for name in _PACKAGES if name in names})
            if told.get("XLA_FLAGS"):
                yield "XLA_FLAGS", str(told["XLA_FLAGS"])
        case kinds.Gate():
            yield from _environment(tree.environment)


def _environment(found: kinds.Environment) -> Iterator[tuple[str, str]]:
    if found.devices.kind:
        yield "device", f"{found.devices.kind} \N{MULTIPLICATION SIGN} {found.devices.count or 1}"
    if found.cpu.model:
        yield "processor", f"{found.cpu.model}, {found.cpu.count or '?'} cores"
    if found.python:
        yield "Python", found.python
    yield from _packages(found.packages)


def _packages(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        if name in found:
            yield name, "not installed" if found[name] is None else str(found[name])
