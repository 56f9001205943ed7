"""The time tier, on pairs that are made up."""

import math

import numpy as np
import pytest

from harness.gate import (
    Verdict,
    timing,
)

RULES = timing.Rules()


def verdicts(values, rules=RULES):
    return {name: each.verdict for name, each in timing.judge(values, rules).items()}


def draws(mean, spread, seed, count=12):
    return list(np.random.default_rng(seed).normal(math.log1p(mean), spread, count))


def test_nothing_is_decided_before_the_first_look():
    assert timing.judge({"a": draws(0.5, 0.01, 0, count=4)}, RULES) == {}
    assert timing.undecided({})


def test_like_arms_raise_no_alarm():
    # Seven benchmarks in each of 300 runs, at the spread that was measured. The
    # rules allow 1% of runs, at a true change of 1%; at none it is less still.
    alarms = 0
    for seed in range(300):
        values = {str(i): draws(0.0, 0.012, 1000 * seed + i) for i in range(7)}
        alarms += Verdict.FAIL in verdicts(values).values()
    assert alarms <= 3


@pytest.mark.parametrize("change", [0.05, 0.1, 0.2])
def test_a_slower_arm_is_caught(change):
    # At a spread of 1.2%, 12 pairs and Holm's smallest share over seven.
    missed = 0
    for seed in range(100):
        values = {str(i): draws(0.0, 0.012, 1000 * seed + i) for i in range(6)}
        values["slow"] = draws(change, 0.012, 1000 * seed + 7)
        missed += verdicts(values)["slow"] != Verdict.FAIL
    assert missed <= 5


def test_a_change_at_the_limit_hardly_ever_passes():
    # The upper bound may err once in 100 at each of three looks: 3% at most.
    passed = sum(
        verdicts({"a": draws(RULES.limit, 0.03, seed)})["a"] == Verdict.PASS for seed in range(300)
    )
    assert passed <= 0.03 * 300 + 3 * math.sqrt(0.03 * 0.97 * 300)


def test_a_faster_arm_passes():
    assert verdicts({"a": draws(-0.3, 0.01, 0)}) == {"a": Verdict.PASS}


def test_noise_is_inconclusive_with_the_change_that_could_have_been_seen():
    decision = timing.judge({"a": draws(0.02, 0.1, 3)}, RULES)["a"]
    assert decision.verdict == Verdict.INCONCLUSIVE
    assert decision.pairs == RULES.looks[-1]
    assert decision.detectable(math.log1p(RULES.margin)) > math.log1p(RULES.limit)


def test_what_was_decided_at_a_look_stays_decided():
    early = draws(0.3, 0.001, 0, count=5)
    assert verdicts({"a": early + [-1.0] * 7}) == {"a": Verdict.FAIL}


def test_pairs_between_looks_count_for_nothing_yet():
    values = draws(0.02, 0.03, 1)
    assert timing.judge({"a": values[:7]}, RULES) == timing.judge({"a": values[:5]}, RULES)


def pair(cpu, wall_clock=None, first="baseline"):
    clocks = {"cpu": cpu, "wall_clock": wall_clock or cpu}
    return timing.Pair(first, {"step": clocks})


def arms_of(ratio, rounds=3):
    return {"baseline": [1.0] * rounds, "candidate": [ratio] * rounds}


def test_rounds_of_a_process_are_one_value_however_many():
    few = [pair(arms_of(1.02, 3)) for _ in range(5)]
    many = [pair(arms_of(1.02, 3000)) for _ in range(5)]
    assert timing.ratios(few, "cpu") == timing.ratios(many, "cpu")
    assert timing.findings(few[:4], RULES, "cpu")[0].verdict == Verdict.INCONCLUSIVE


def test_arms_are_compared_within_a_round():
    # The machine slows down threefold on the way; both arms feel it.
    speeds = np.array([1.0, 1.5, 2.0, 2.5, 3.0])
    found = pair({"baseline": list(speeds), "candidate": list(speeds * 1.07)})
    assert found.log_ratio("step", "cpu") == pytest.approx(math.log(1.07))


def test_wall_time_alone_fails_only_when_far_worse():
    output = {}
    for wall_clock in (1.2, 1.6):
        pairs = [pair(arms_of(1.0), arms_of(wall_clock + 0.001 * i)) for i in range(5)]
        output[wall_clock] = timing.findings(pairs, RULES, "cpu")[0]
    assert output[1.2].verdict == Verdict.PASS
    assert output[1.6].verdict == Verdict.FAIL
    assert "+20" in output[1.2].text


def test_the_smallest_change_is_printed():
    pairs = [pair(arms_of(1 + 0.001 * i)) for i in range(5)]
    finding = timing.findings(pairs, RULES, "wall_clock")[0]
    assert "smallest change it can see +" in finding.text
    assert finding.figures["detectable_ratio"] > 1.01


@pytest.mark.parametrize(
    "wrong",
    [{"looks": (5, 5, 8)}, {"looks": (1, 2, 3)}, {"alphas": (0.01,)}, {"margin": 0.05}],
    ids=str,
)
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"look|margin"):
        timing.Rules(**wrong)
