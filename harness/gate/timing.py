"""The time tier: is the candidate slower, by pairs of fresh processes.

One value per pair and benchmark: the median, over the rounds of the pair, of
log(candidate seconds / baseline seconds). Rounds within a pair share what is
peculiar to their two processes, so that only pairs count as independent.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from harness.gate import statistics
from harness.gate.verdict import Finding, Verdict

Clock = Literal["cpu", "wall_clock"]


@dataclasses.dataclass(frozen=True)
class Rules:
    """How the tier decides.

    A benchmark fails at a look if its mean log ratio is above `margin` with a
    chance of error of that look's alpha, shared over the benchmarks by Holm's
    procedure. It passes if its upper bound, at `pass_alpha`, is below `limit`.
    Otherwise pairs are added up to the next look; after the last it is
    INCONCLUSIVE.

    Attributes:
      looks: Numbers of pairs at which a decision is sought.
      alphas: Chance of a false alarm at each look, over all benchmarks. Their
        sum bounds that of the whole run (Bonferroni over looks).
      pass_alpha: Chance that something slower than `limit` passes at a look.
      margin: Relative slow-down up to which nothing is a failure.
      limit: Relative slow-down that must not pass.
      wall_time_margin: Relative slow-down of wall time that fails where CPU time is
        the clock: it shows what waits, and is too noisy for less.
    """

    looks: tuple[int, ...] = (5, 8, 12)
    alphas: tuple[float, ...] = (0.004, 0.003, 0.003)
    pass_alpha: float = 0.01
    margin: float = 0.01
    limit: float = 0.05
    wall_time_margin: float = 0.25

    def __post_init__(self) -> None:
        """Check that each look has an alpha, and that margin and limit leave room."""
        if len(self.looks) != len(self.alphas) or list(self.looks) != sorted(set(self.looks)):
            raise ValueError("each look needs an alpha, and looks must grow")
        if self.looks[0] < 2 or not 0 <= self.margin < self.limit:
            raise ValueError("the first look needs two pairs, and margin must be below limit")


def rules_for(backend: str) -> Rules:
    """Return the rules of a backend: CPU time within 1%, wall time elsewhere within 2%."""
    return Rules() if backend == "cpu" else Rules(margin=0.02)


@dataclasses.dataclass(frozen=True)
class Pair:
    """One pair of fresh processes.

    Attributes:
      first: The arm that was started first, `baseline` or `candidate`.
      seconds: Benchmark -> clock -> arm -> seconds a call, round by round; the
        i-th of both arms are of the same round.
    """

    first: str
    seconds: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]

    def log_ratio(self, benchmark: str, clock: Clock) -> float:
        """Return the pair's one value: the median over rounds of log(candidate / baseline)."""
        arms = self.seconds[benchmark][clock]
        ratios = np.log(np.asarray(arms["candidate"], float) / np.asarray(arms["baseline"], float))
        return float(np.median(ratios))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "first": self.first,
            "seconds": {
                name: {
                    clock: {arm: list(found) for arm, found in arms.items()}
                    for clock, arms in clocks.items()
                }
                for name, clocks in self.seconds.items()
            },
        }


@dataclasses.dataclass(frozen=True)
class Decision:
    """Where a benchmark stands.

    Attributes:
      verdict: PASS, FAIL or, while undecided, INCONCLUSIVE.
      pairs: Pairs behind it.
      mean: Mean log ratio over those pairs.
      spread: Standard deviation of one pair's value.
      lower: Lower confidence bound of the mean, at the look's alpha.
      upper: Upper confidence bound of the mean, at `pass_alpha`.
      alpha: Holm's smallest share of the look's alpha: what is tested with if
        all else is quiet.
    """

    verdict: Verdict
    pairs: int
    mean: float
    spread: float
    lower: float
    upper: float
    alpha: float

    def detectable(self, margin: float) -> float:
        """Return the smallest log ratio that as many such pairs find in 95%."""
        return statistics.detectable(self.spread, self.pairs, margin=margin, alpha=self.alpha)


def judge(values: Mapping[str, Sequence[float]], rules: Rules) -> dict[str, Decision]:
    """Decide each benchmark, look after look, on the pairs there are.

    Args:
      values: Benchmark -> [n] log ratios, a pair each; every benchmark has as
        many.
      rules: How to decide. Pairs after the last look that was reached count
        for nothing yet, so that no look is taken that was not planned.

    Returns:
      A decision for each benchmark; empty if the first look was not reached.
    """
    decided: dict[str, Decision] = {}
    count = min((len(each) for each in values.values()), default=0)
    margin, limit = math.log1p(rules.margin), math.log1p(rules.limit)
    for look, alpha in zip(rules.looks, rules.alphas, strict=True):
        if look > count:
            break
        waiting = {
            name: each[:look]
            for name, each in values.items()
            if name not in decided or decided[name].verdict == Verdict.INCONCLUSIVE
        }
        p_values = {name: statistics.p_value(each, margin) for name, each in waiting.items()}
        slower = statistics.holm(p_values, alpha, family=len(values))
        for name, each in waiting.items():
            upper = statistics.upper_bound(each, rules.pass_alpha)
            spread = float(np.std(each, ddof=1))
            decided[name] = Decision(
                verdict=Verdict.FAIL
                if name in slower
                else Verdict.PASS
                if upper < limit
                else Verdict.INCONCLUSIVE,
                pairs=look,
                mean=float(np.mean(each)),
                spread=spread,
                lower=statistics.lower_bound(each, alpha),
                upper=upper,
                alpha=alpha / len(values),
            )
    return decided


def undecided(decisions: Mapping[str, Decision]) -> bool:
    """Return whether more pairs could change anything."""
    return not decisions or any(
        decision.verdict == Verdict.INCONCLUSIVE for decision in decisions.values()
    )


def findings(pairs: Sequence[Pair], rules: Rules, clock: Clock) -> tuple[Finding, ...]:
    """Return the tier's findings on the pairs that were run.

    Args:
      pairs: All with the same benchmarks.
      rules: How to decide.
      clock: `cpu` where the CPU is what computes, else `wall_clock`.

    Returns:
      A finding per benchmark. Where CPU time decides, wall time is reported beside
      it, and fails on its own if far worse.
    """
    if not pairs:
        return ()
    names = list(pairs[0].seconds)
    decisions = judge(ratios(pairs, clock), rules)
    wall_clock = {name: [pair.log_ratio(name, "wall_clock") for pair in pairs] for name in names}
    far = math.log1p(rules.wall_time_margin)
    waits: frozenset[str] = frozenset()
    if clock == "cpu" and len(pairs) >= rules.looks[0]:
        p_values = {name: statistics.p_value(each, far) for name, each in wall_clock.items()}
        waits = statistics.holm(p_values, min(rules.alphas))
    return tuple(
        _finding(name, decisions.get(name), wall_clock[name], clock, rules, waits=name in waits)
        for name in names
    )


def ratios(pairs: Sequence[Pair], clock: Clock) -> dict[str, list[float]]:
    """Return each benchmark's values, a pair each."""
    names = list(pairs[0].seconds) if pairs else []
    return {name: [pair.log_ratio(name, clock) for pair in pairs] for name in names}


def _finding(
    name: str,
    decision: Decision | None,
    wall_clock: Sequence[float],
    clock: Clock,
    rules: Rules,
    *,
    waits: bool,
) -> Finding:
    if decision is None:
        return Finding(
            "time",
            name,
            Verdict.INCONCLUSIVE,
            f"{len(wall_clock)} pair(s) of processes decide nothing; the first look is at "
            f"{rules.looks[0]}",
        )
    least = decision.detectable(math.log1p(rules.margin))
    what = "CPU time" if clock == "cpu" else "wall time"
    text = (
        f"{what} {_percent(decision.mean)} ({_percent(decision.lower)} .. "
        f"{_percent(decision.upper)}, {decision.pairs} pairs)"
    )
    if clock == "cpu":
        text += f"; wall time {_percent(float(np.mean(wall_clock)))}"
    text += f"; smallest change it can see {_percent(least)}"
    verdict = decision.verdict
    if waits:
        verdict = Verdict.FAIL
        text += f"; wall time is worse by more than {rules.wall_time_margin:.0%}"
    return Finding(
        "time",
        name,
        verdict,
        text,
        {
            "clock": clock,
            "pairs": decision.pairs,
            "ratio": math.exp(decision.mean),
            "ratio_lower": math.exp(decision.lower),
            "ratio_upper": math.exp(decision.upper),
            "wall_clock_ratio": math.exp(float(np.mean(wall_clock))),
            "pair_spread": decision.spread,
            "detectable_ratio": math.exp(least),
        },
    )


def _percent(log_ratio: float) -> str:
    return f"{math.expm1(log_ratio):+.1%}"
