"""What each result comes to in a word, the whole in a sentence, and where it was measured."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.artifacts.bench import Bench
from harness.artifacts.check import Check
from harness.artifacts.gate import Gate
from harness.artifacts.parts import Environment
from harness.artifacts.plan import Plan
from harness.artifacts.reading import Artifact
from harness.artifacts.run import Run
from harness.report import forms
from harness.report.conformance import counted
from harness.report.gating import LOOKS, TIER_BASIS
from harness.report.page import Answer, Basis, Gravity, Note, Part, Section, Table, in_order
from harness.report.reading import Sources

_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "qwix", "optax", "orbax-checkpoint", "numpy")
# What one and what several results of a gravity do.
_HEADLINE: Mapping[Gravity, tuple[str, str]] = {
    "no": ("says no", "say no"),
    "open": ("could not decide", "could not decide"),
    "yes": ("says yes", "say yes"),
    "none": ("only measures", "only measure"),
}


def answers(sources: Sources) -> tuple[Answer, ...]:
    """Return each result's answer, in the order of the results."""
    return tuple(dataclasses.replace(_answer(each.tree), source=each.name) for each in sources.used)


def headline(given: Sequence[Answer]) -> str:
    """Return the answers in one sentence, the gravest first."""
    count = Counter(each.gravity for each in given)
    parts = [
        f"{count[gravity]} {words[count[gravity] != 1]}"
        for gravity, words in _HEADLINE.items()
        if count[gravity]
    ]
    return f"{forms.count(len(given), 'result')}: {', '.join(parts)}."


def _answer(tree: Artifact) -> Answer:
    match tree:
        case Run():
            return Answer(*_run(tree), ("measured",))
        case Check():
            return Answer(*_check(tree), ("measured",))
        case Plan():
            return Answer(*_plan(tree), ("compiled",))
        case Bench():
            return Answer("none", "TIMED", _bench(tree), ("measured", "compiled"))
        case Gate():
            tiers = ", ".join(f"{tier} {verdict}" for tier, verdict in tree.tiers.items())
            text = f"{tree.candidate} against {tree.baseline}: {tiers or 'no tier'}."
            found: set[Basis] = {TIER_BASIS.get(each.tier, "measured") for each in tree.findings}
            return Answer(LOOKS[tree.verdict].gravity, tree.verdict, text, in_order(found))


def _run(run: Run) -> tuple[Gravity, str, str]:
    before, after = run.baseline, run.trained
    text = (
        f"{run.recipe.get('name', 'a recipe')} on Tunix {run.upstream.version} "
        f"({run.upstream.mode}): accuracy {forms.percent(before.accuracy)} before PPO, "
        f"{forms.percent(after.accuracy)} after, of {forms.count(after.total, 'problem')}"
    )
    if run.gained:
        return "yes", "LEARNED", f"{text}; above the 95% interval before."
    if run.lost:
        return "no", "GOT WORSE", f"{text}; below the 95% interval before."
    return "no", "NO GAIN", f"{text}; within the 95% interval before."


def _check(check: Check) -> tuple[Gravity, str, str]:
    found = ", ".join(counted(check).values()) or "none was checked"
    text = f"Tunix {check.version} ({check.mode}), properties: {found}."
    if not check.properties:
        return "open", "NOTHING CHECKED", text
    return ("yes", "AS KNOWN", text) if check.ok else ("no", "NOT AS KNOWN", text)


def _plan(plan: Plan) -> tuple[Gravity, str, str]:
    where = f"{plan.recipe.get('name', 'the recipe')} on {plan.chip}"
    if not plan.phases:
        return "open", "NOTHING PLANNED", f"{where}: it holds no phase."
    refused = [each.name for each in plan.phases if each.peak_bytes is None]
    if refused:
        return "no", "DOES NOT FIT", f"{where}: the compiler refused {', '.join(refused)}."
    peak = max(plan.phases, key=lambda each: each.peak_bytes or 0)
    text = (
        f"{where}: the peak is {forms.size(peak.peak_bytes)} in the {peak.name}, of "
        f"{forms.size(plan.hbm_bytes)} a chip"
    )
    if plan.fits_all:
        return "yes", "FITS", f"{text}."
    over = ", ".join(each.name for each in plan.phases if not each.fits)
    return "no", "DOES NOT FIT", f"{text}; too much: {over}."


def _bench(bench: Bench) -> str:
    names = {each.group or each.name for each in bench.benchmarks} - {"memory"}
    commit = (bench.commit_info.id or "an unknown commit")[:10]
    dirty = ", with changes that are not committed" if bench.commit_info.dirty else ""
    return (
        f"{forms.count(len(bench.benchmarks), 'benchmark')} of "
        f"{forms.count(len(names), 'program')} at commit {commit}{dirty}; the gate judges them."
    )


def environment(sources: Sources) -> Section:
    """Show where everything was measured, each fact once, and what differs."""
    facts: dict[str, dict[str, list[str]]] = {}
    silent = []
    for source in sources.used:
        found = {name: str(value) for name, value in _facts(source.tree) if value}
        for fact, value in found.items():
            facts.setdefault(fact, {}).setdefault(value, []).append(source.name)
        silent += [] if found else [source.name]
    rows, tones, alike = [], [], []
    for fact, values in facts.items():
        if fact in _PACKAGES and len(values) == 1:
            alike.append(f"{fact} {next(iter(values))}")
            continue
        for value, names in values.items():
            rows.append({"what": fact, "value": value, "source": ", ".join(names)})
            tones.append("differs" if len(values) > 1 else "")
    if alike:
        reported = "all that report them"
        rows.append({"what": "packages", "value": ", ".join(alike), "source": reported})
        tones.append("")
    caption = "Where it ran or was compiled. A bar marks what is not the same in all."
    parts: list[Part] = [Table(caption, (), rows, tones=tones)] if rows else []
    if silent:
        parts.append(Note(f"No environment is reported by: {', '.join(silent)}."))
    return Section("environment", "Environment", parts)


def _facts(tree: Artifact) -> Iterator[tuple[str, Any]]:
    """Yield each fact of where a result is from; empty where it is not known."""
    match tree:
        case Run() | Plan() if tree.upstream:
            yield "Tunix", f"{tree.upstream.version}, {tree.upstream.mode}"
        case Check():
            yield "Tunix", f"{tree.version}, {tree.mode}"
    match tree:
        case Run():
            yield "recipe", tree.recipe.get("name", "unnamed")
            yield from _environment(tree.environment)
        case Plan():
            yield "recipe", tree.recipe.get("name")
            yield "device", f"{tree.chip}, compiled for, not here"
            yield from _packages(tree.versions)
        case Bench():
            yield from _bench_facts(tree)
        case Gate():
            yield from _environment(tree.environment)


def _bench_facts(bench: Bench) -> Iterator[tuple[str, Any]]:
    if bench.harness:
        given = bench.harness.conditions
        yield "Tunix", bench.harness.judged.get("google-tunix")
        yield "recipe", bench.harness.recipe.get("name")
        yield "device", _times(given.get("device"), given.get("devices", 1))
        yield from _packages({key.removeprefix("packages."): given[key] for key in given})
        yield "XLA_FLAGS", given.get("XLA_FLAGS")
    processor = bench.machine_info.cpu
    yield "processor", _cores(processor.get("brand_raw"), processor.get("count"))
    yield "Python", bench.machine_info.python_version


def _environment(found: Environment) -> Iterator[tuple[str, Any]]:
    yield "device", _times(found.devices.kind, found.devices.count or 1)
    yield "processor", _cores(found.cpu.model, found.cpu.count)
    yield "Python", found.python
    yield from _packages(found.packages)


def _times(kind: str | None, count: int) -> str:
    return f"{kind} \N{MULTIPLICATION SIGN} {count}" if kind else ""


def _cores(model: str | None, count: int | None) -> str:
    return f"{model}, {count or '?'} cores" if model else ""


def _packages(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        if name in found:
            yield name, "not installed" if found[name] is None else str(found[name])
