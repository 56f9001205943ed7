"""Runs the arms and gathers what they report: exact figures once, times pair by pair."""

import contextlib
import dataclasses
import pathlib
import random
import tempfile
from collections.abc import Callable, Sequence

from harness import programs
from harness.artifacts import bench
from harness.gate import arms, exact, records, timing
from harness.gate.arms import Arm, ArmFailedError, Process
from harness.gate.verdict import Finding, Report, Tier, Verdict
from harness.measure import processor

# What a person waits for, in the order in which a step runs it.
TIMED = (*programs.ALWAYS, "global_step")
Progress = Callable[[str], None]
# Arm -> the first answer of its process.
Heads = dict[str, bench.Header]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
      arguments: Of every worker: preset, changes, stock or patched.
      timed: Benchmarks of the time tier.
      rounds: Rounds within a pair, at least.
      most_rounds: Rounds within a pair, at most.
      seconds: What a short benchmark's rounds are to fill, in each arm of a
        pair: on a busy machine it is rounds that are noisy, more than processes.
      round_seconds: Least length of a round; short benchmarks are called more
        often to fill it.
      core: Core to which both arms are pinned; chosen if None.
      seed: Seed of the orders.
      rules: Of the time tier; by backend if None.
    """

    arguments: tuple[str, ...] = ()
    timed: tuple[str, ...] = TIMED
    rounds: int = 9
    most_rounds: int = 61
    seconds: float = 2.0
    round_seconds: float = 0.05
    core: int | None = None
    seed: int = 0
    rules: timing.Rules | None = None


def measure_exact(arm: Arm, plan: Plan, cache: pathlib.Path | None = None) -> records.Record:
    """Take an arm's exact figures in a fresh process.

    Args:
      arm: The arm.
      plan: What to measure.
      cache: Folder in which its compiled programs are left for `measure_time`.

    Returns:
      The record.

    Raises:
      ArmFailedError: It did not run; the message ends with its last lines.
    """
    # One core whatever the machine has: programs depend on how many there are.
    pinned = ["--core", str(processor.cores()[-1])]
    command = [arms.WORKER, "exact", *pinned, *plan.arguments]
    with Process(arm, command, cache=cache) as process:
        found = process.wait(bench.Measured)
    record = records.from_measured(arm.name, found, tuple(exact.FIGURES))
    return dataclasses.replace(record, judged={**record.judged, "commit": arm.commit})


def against(
    baseline: Arm,
    candidate: Arm,
    plan: Plan,
    tiers: Sequence[Tier] = ("exact", "time"),
    progress: Progress = lambda what: None,
) -> Report:
    """Compare two arms on this machine.

    Args:
      baseline: What the candidate is held against.
      candidate: What is judged.
      plan: What to measure.
      tiers: Of `exact` and `time`.
      progress: Receives what is being done.

    Returns:
      The report. If the environments differ in more than what is judged, or an
      arm does not run, nothing is compared and the report states why.

    Raises:
      HarnessError: Nothing can be pinned here, and the time tier was asked for.
    """
    core = processor.choose(plan.core) if "time" in tiers else None
    report = Report(baseline.label, candidate.label, ())
    differing = arms.differing(arms.freeze(baseline), arms.freeze(candidate))
    if differing:
        return report.with_findings(_not_comparable(tiers, "environments", "; ".join(differing)))
    with tempfile.TemporaryDirectory(prefix="ppo-harness-gate-") as folder:
        caches = {arm.name: pathlib.Path(folder, arm.name) for arm in (baseline, candidate)}
        try:
            if "exact" in tiers:
                report = _exact_tier(report, baseline, candidate, plan, caches, progress)
            if core is not None:
                report = _time_tier(report, baseline, candidate, plan, core, caches, progress)
        except ArmFailedError as error:
            missing: list[Tier] = [tier for tier in tiers if not report.of(tier)]
            found = _not_comparable(missing, "arm that does not run", str(error))
            return report.with_findings(found)
    return report


def _not_comparable(tiers: Sequence[Tier], subject: str, text: str) -> tuple[Finding, ...]:
    return tuple(Finding(tier, subject, Verdict.NOT_COMPARABLE, text) for tier in tiers)


def _exact_tier(
    report: Report,
    baseline: Arm,
    candidate: Arm,
    plan: Plan,
    caches: dict[str, pathlib.Path],
    progress: Progress,
) -> Report:
    found = {}
    for arm in (baseline, candidate):
        progress(f"exact figures of {arm.label}")
        found[arm.name] = measure_exact(arm, plan, caches[arm.name])
    evidence = {
        name: {"judged": dict(each.judged), "benchmarks": dict(each.exact)}
        for name, each in found.items()
    }
    findings = exact.compare(found["baseline"], found["candidate"], stored=False)
    return report.with_findings(findings, exact=evidence)


def _time_tier(
    report: Report,
    baseline: Arm,
    candidate: Arm,
    plan: Plan,
    core: int,
    caches: dict[str, pathlib.Path],
    progress: Progress,
) -> Report:
    pairs, heads = measure_time(baseline, candidate, plan, core, caches, progress=progress)
    evidence = {"core": core, "pairs": [pair.to_dict() for pair in pairs]}
    report = dataclasses.replace(report, environment=heads["candidate"].environment.to_json())
    return report.with_findings(_time_findings(pairs, heads, plan), time=evidence)


def measure_time(
    baseline: Arm,
    candidate: Arm,
    plan: Plan,
    core: int,
    caches: dict[str, pathlib.Path],
    progress: Progress = lambda what: None,
) -> tuple[list[timing.Pair], Heads]:
    """Run pairs of fresh processes until every benchmark is decided, or the last look.

    Args:
      baseline: One arm.
      candidate: The other.
      plan: What to time.
      core: Where both are pinned.
      caches: Arm -> folder of its compiled programs.
      progress: Receives each pair's name.

    Returns:
      The pairs, and what the last process of each arm reported of itself.
    """
    order = random.Random(plan.seed)
    pairs: list[timing.Pair] = []
    heads: Heads = {}
    looks = (plan.rules or timing.Rules()).looks
    while not pairs or len(pairs) < looks[-1]:
        progress(f"pair {len(pairs) + 1} of {looks[0]} to {looks[-1]}")
        sides = [baseline, candidate]
        order.shuffle(sides)
        pair, heads = run_pair(sides, plan, core, caches, order)
        pairs.append(pair)
        rules = plan.rules or timing.rules_for(heads["candidate"].conditions["backend"])
        looks = rules.looks
        if len(pairs) in looks:
            clock = clock_of(heads["candidate"])
            if not timing.undecided(timing.judge(timing.ratios(pairs, clock), rules)):
                break
    return pairs, heads


def run_pair(
    sides: Sequence[Arm],
    plan: Plan,
    core: int,
    caches: dict[str, pathlib.Path],
    order: random.Random,
) -> tuple[timing.Pair, Heads]:
    """Run one pair: both processes live, and alternate in an order drawn each round.

    Args:
      sides: The two arms, the one to start first.
      plan: What to time.
      core: Where both are pinned.
      caches: Arm -> folder of its compiled programs.
      order: Draws the orders.

    Returns:
      The pair, and what each process reported of itself.
    """
    only = [word for name in plan.timed for word in ("--only", name)]
    command = [arms.WORKER, "serve", "--core", str(core), *only, *plan.arguments]
    with contextlib.ExitStack() as stack:
        live: dict[str, Process] = {}
        heads: Heads = {}
        # One after the other: on one core they would only hinder each other.
        for arm in sides:
            live[arm.name] = stack.enter_context(Process(arm, command, cache=caches[arm.name]))
            heads[arm.name] = live[arm.name].wait(bench.Header)
        seconds = {name: time_rounds(live, name, plan, order) for name in plan.timed}
    return timing.Pair(sides[0].name, seconds), heads


def time_rounds(
    live: dict[str, Process], name: str, plan: Plan, order: random.Random
) -> dict[str, dict[str, list[float]]]:
    """Time one benchmark in all processes, which alternate, round by round.

    Args:
      live: Processes by arm.
      name: The benchmark.
      plan: Rounds, and their least length.
      order: Draws the order within each round.

    Returns:
      Clock -> arm -> seconds a call, one per round.
    """
    warm = [process.ask(bench.Order(name=name, calls=1)) for process in live.values()]
    longest = max(each.wall_clock for each in warm)
    calls = max(1, round(plan.round_seconds / max(longest, 1e-6)))
    found: dict[str, dict[str, list[float]]] = {
        clock: {arm: [] for arm in live} for clock in ("cpu", "wall_clock")
    }
    fill = round(plan.seconds / max(longest * calls, 1e-6))
    for _ in range(max(plan.rounds, min(plan.most_rounds, fill))):
        names = list(live)
        order.shuffle(names)
        for arm in names:
            answer = live[arm].ask(bench.Order(name=name, calls=calls))
            found["cpu"][arm].append(answer.cpu)
            found["wall_clock"][arm].append(answer.wall_clock)
    return found


def clock_of(head: bench.Header) -> timing.Clock:
    """Return the clock that decides: CPU time where the CPU computes, else wall time."""
    return "cpu" if head.conditions["backend"] == "cpu" else "wall_clock"


def _time_findings(pairs: list[timing.Pair], heads: Heads, plan: Plan) -> tuple[Finding, ...]:
    sides = [
        records.Record(name, "benchmarks", head.conditions, {}, {}) for name, head in heads.items()
    ]
    differing = records.differences(*sides)
    if differing:
        return (Finding("time", "conditions", Verdict.NOT_COMPARABLE, "; ".join(differing)),)
    rules = plan.rules or timing.rules_for(heads["candidate"].conditions["backend"])
    return timing.findings(pairs, rules, clock_of(heads["candidate"]))
