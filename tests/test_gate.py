"""The gate: what it says of figures, times and learning, and that it can be wrong about neither."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness import cli, hardware
from harness.artifacts import bench, run
from harness.errors import HarnessError
from harness.gate import (
    Finding,
    Report,
    Verdict,
    arms,
    baseline,
    command,
    exact,
    learning,
    records,
    runner,
    statistics,
    timing,
)
from harness.gate.verdict import worst
from harness.measure import compiles, processor, programs

FIGURES = tuple(exact.FIGURES)
RULES = timing.Rules()


# Bounds, and several hypotheses at once.


def test_the_lower_bound_is_that_of_scipy():
    values = [0.01, 0.03, -0.02, 0.05, 0.02]
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.98)
    assert statistics.lower_bound(values, 0.01) == pytest.approx(interval.low, rel=1e-12)
    assert statistics.upper_bound(values, 0.01) == pytest.approx(interval.high, rel=1e-12)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=12), st.floats(-1, 1), st.floats(0.001, 0.4))
def test_the_bound_and_the_p_value_say_the_same(values, at_most, alpha):
    p, bound = statistics.p_value(values, at_most), statistics.lower_bound(values, alpha)
    if not math.isclose(p, alpha, rel_tol=1e-6) and not math.isclose(bound, at_most, abs_tol=1e-9):
        assert (p < alpha) == (bound > at_most)


def test_equal_values_are_certain():
    assert statistics.p_value([0.02] * 4, 0.01) == 0
    assert statistics.p_value([0.01] * 4, 0.01) == 1


def test_holm_rejects_in_order_and_stops_at_the_first_that_stands():
    # 0.01 <= 0.05/4, 0.015 <= 0.05/3, 0.03 > 0.05/2: the third stands, and the fourth with it.
    p = {"a": 0.01, "b": 0.015, "c": 0.03, "d": 0.04}
    assert statistics.holm(p, 0.05) == {"a", "b"}
    assert statistics.holm(p, 0.05, family=10) == frozenset()


def test_what_is_detectable_is_detected_as_often_as_said():
    # 2,000 runs: the standard error of a share of 0.95 is 0.005.
    draw = np.random.default_rng(0)
    effect = statistics.detectable(0.01, 5, margin=0.01, alpha=0.004)
    found = draw.normal(effect, 0.01, (2000, 5))
    share = np.mean([statistics.p_value(row, 0.01) < 0.004 for row in found])
    assert abs(share - 0.95) < 3 * 0.005


# The time tier on made-up pairs.


def verdicts(values, rules=RULES):
    return {name: each.verdict for name, each in timing.judge(values, rules).items()}


def draws(mean, spread, seed, count=12):
    return list(np.random.default_rng(seed).normal(math.log1p(mean), spread, count))


def test_nothing_is_said_before_the_first_look():
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


def test_noise_is_inconclusive_and_says_what_could_have_been_seen():
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


def pair(cpu, wall=None, first="baseline"):
    clocks = {"cpu": cpu, "wall": wall or cpu}
    return timing.Pair(first, {"step": clocks})


def arms_of(ratio, rounds=3):
    return {"baseline": [1.0] * rounds, "candidate": [ratio] * rounds}


def test_rounds_of_a_process_are_one_value_however_many():
    few = [pair(arms_of(1.02, 3)) for _ in range(5)]
    many = [pair(arms_of(1.02, 3000)) for _ in range(5)]
    assert timing.ratios(few, "cpu") == timing.ratios(many, "cpu")
    assert timing.findings(few[:4], RULES, "cpu")[0].verdict == Verdict.INCONCLUSIVE


def test_turns_are_compared_within_a_turn():
    # The machine slows down threefold on the way; both arms feel it.
    speeds = np.array([1.0, 1.5, 2.0, 2.5, 3.0])
    found = pair({"baseline": list(speeds), "candidate": list(speeds * 1.07)})
    assert found.log_ratio("step", "cpu") == pytest.approx(math.log(1.07))


def test_wall_time_alone_fails_only_when_far_worse():
    output = {}
    for wall in (1.2, 1.6):
        pairs = [pair(arms_of(1.0), arms_of(wall + 0.001 * i)) for i in range(5)]
        output[wall] = timing.findings(pairs, RULES, "cpu")[0]
    assert output[1.2].verdict == Verdict.PASS
    assert output[1.6].verdict == Verdict.FAIL
    assert "+20" in output[1.2].text


def test_the_smallest_change_is_printed():
    pairs = [pair(arms_of(1 + 0.001 * i)) for i in range(5)]
    finding = timing.findings(pairs, RULES, "wall")[0]
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


# The exact tier, each figure made worse on purpose in a program of its own.


def record(figures, **conditions):
    return records.Record("a file", "benchmarks", {"jax": "1", **conditions}, {}, figures)


def figures_of(function, *args, **options):
    lowered = jax.jit(function, **options).lower(*args)
    found = programs.figures(lowered, lowered.compile()).to_dict()
    return {name: found[name] for name in FIGURES if name in found}


def compared(before, after):
    (finding,) = exact.compare(record({"step": before}), record({"step": after}))
    return finding


def worse_in(finding):
    text = finding.text.partition("worse: ")[2].partition(";")[0]
    return {name for name in FIGURES if name in text}


STATE = jax.ShapeDtypeStruct((256, 256), jnp.float32)


def test_a_dropped_donation_is_caught():
    def step(state):
        return state * 2 + 1

    before, after = figures_of(step, STATE, donate_argnums=0), figures_of(step, STATE)
    finding = compared(before, after)
    assert finding.verdict == Verdict.FAIL
    assert {"donated_bytes", "alias_bytes"} <= worse_in(finding)


def test_an_upcast_to_float32_is_caught():
    half = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16)

    def step(upcast, x):
        return (x.astype(jnp.float32) if upcast else x) + 1

    finding = compared(
        figures_of(lambda x: step(False, x), half), figures_of(lambda x: step(True, x), half)
    )
    assert finding.verdict == Verdict.FAIL
    assert "output_bytes" in worse_in(finding)


def test_log_probs_that_are_no_longer_chunked_are_caught():
    hidden = jax.ShapeDtypeStruct((64, 32), jnp.float32)
    table = jax.ShapeDtypeStruct((32, 4096), jnp.float32)

    def whole(hidden, table):
        return jax.nn.logsumexp(hidden @ table, axis=-1)

    def chunked(hidden, table):
        return jax.lax.map(lambda rows: whole(rows, table), hidden.reshape(16, 4, 32))

    finding = compared(figures_of(chunked, hidden, table), figures_of(whole, hidden, table))
    assert finding.verdict == Verdict.FAIL
    assert "temp_bytes" in worse_in(finding)


def steady(steps):
    """Count what is traced and compiled after the first of several steps."""
    with compiles.Listener() as listener:
        next(steps)
        warm = listener.statistics
        for _ in steps:
            pass
        after = listener.statistics.since(warm)
    return {
        "compile_count": warm.compiles + warm.cache_hits,
        "retraces": after.traces + after.compiles + after.cache_hits,
    }


def calm_steps() -> Iterator[None]:
    step = jax.jit(lambda x: jnp.sin(x) + 0.5)
    for _ in range(4):
        yield step(np.ones(7, np.float32)).block_until_ready()


def jittering_steps() -> Iterator[None]:
    step = jax.jit(lambda x: jnp.sin(x) + 0.5)
    for length in (7, 8, 7, 9):
        yield step(np.ones(length, np.float32)).block_until_ready()


def unstable_steps() -> Iterator[None]:
    for _ in range(4):
        yield jax.jit(lambda x: jnp.sin(x) + 0.5)(np.ones(7, np.float32)).block_until_ready()


@pytest.mark.parametrize("steps", [jittering_steps, unstable_steps])
def test_a_step_that_is_compiled_again_is_caught(steps):
    calm = steady(calm_steps())
    assert calm["retraces"] == 0
    assert calm["compile_count"] > 0
    finding = compared(calm, steady(steps()))
    assert finding.verdict == Verdict.FAIL
    assert "retraces" in worse_in(finding)


def test_equal_figures_pass():
    figures = figures_of(lambda x: x + 1, STATE)
    assert figures["argument_bytes"] == 256 * 256 * 4
    assert compared(figures, figures).verdict == Verdict.PASS


@pytest.mark.parametrize("figure", FIGURES)
def test_each_figure_is_watched_both_ways(figure):
    up, down = compared({figure: 10}, {figure: 11}), compared({figure: 10}, {figure: 9})
    assert up.verdict == down.verdict == Verdict.FAIL
    worse, better = (up, down) if exact.FIGURES[figure] == "less" else (down, up)
    assert worse.text.startswith("worse: ")
    assert better.text.startswith("stale baseline, run `gate --update-baseline")


@pytest.mark.parametrize("figure", FIGURES)
def test_better_than_what_was_measured_beside_it_is_no_failure(figure):
    up, down = (
        exact.compare(record({"step": {figure: 10}}), record({"step": {figure: n}}), stored=False)
        for n in (11, 9)
    )
    (worse,), (better,) = (up, down) if exact.FIGURES[figure] == "less" else (down, up)
    assert (worse.verdict, better.verdict) == (Verdict.FAIL, Verdict.PASS)
    assert better.text.startswith("better by ")
    both = {figure: 10, "output_bytes": 10, "temp_bytes": 10}
    mixed = {**both, "output_bytes": 9, "temp_bytes": 11}
    (found,) = exact.compare(record({"step": both}), record({"step": mixed}), stored=False)
    assert found.verdict == Verdict.FAIL
    assert exact.UPDATE not in found.text


@pytest.mark.parametrize("stored", [True, False])
def test_a_missing_and_a_new_benchmark_are_loud(stored):
    old, new = record({"old": {"flops": 1}}), record({"new": {"flops": 1}})
    found = exact.compare(old, new, stored=stored)
    assert {each.subject: each.text.split(":")[0] for each in found} == {
        "new": "new",
        "old": "missing",
    }
    assert {each.verdict for each in found} == {Verdict.FAIL}


def test_a_figure_that_went_away_is_loud():
    assert compared({"flops": 1, "temp_bytes": 2}, {"flops": 1}).verdict == Verdict.FAIL


def test_other_conditions_are_not_comparable_and_named():
    found = exact.compare(
        record({"a": {"flops": 1}}), record({"a": {"flops": 2}}, jax="2", chip="v6e")
    )
    (finding,) = found
    assert finding.verdict == Verdict.NOT_COMPARABLE
    assert "jax is 1" in finding.text
    assert "chip is not reported" in finding.text


def test_nothing_measured_is_not_a_pass():
    assert exact.compare(record({}), record({}))[0].verdict == Verdict.NOT_COMPARABLE
    assert Report("a", "b", ()).verdict == Verdict.NOT_COMPARABLE


def test_the_gravest_verdict_and_its_exit_code():
    def code(*output):
        return Report("a", "b", tuple(Finding("time", "x", each, "") for each in output)).exit_code

    assert worst(Verdict) == Verdict.FAIL
    assert code(Verdict.PASS) == 0
    assert code(Verdict.PASS, Verdict.NOT_COMPARABLE, Verdict.FAIL) == 1
    assert code(Verdict.PASS, Verdict.INCONCLUSIVE) == 2
    assert code(Verdict.PASS, Verdict.NOT_COMPARABLE) == 2


def test_markdown_tells_what_did_not_pass_first_and_breaks_no_table():
    found = (
        Finding("time", "step", Verdict.PASS, "CPU time +0.1%"),
        Finding("exact", "actor", Verdict.FAIL, "worse: flops | 1 ->\n2"),
    )
    text = Report("main", "branch", found).to_markdown()
    assert text.startswith("## Gate: FAIL")
    assert text.index("`actor`") < text.index("`step`")
    assert "flops \\| 1 -> 2" in text


# Files.


def bench_json(**changes):
    tree = {
        "version": "5.3.1",
        "machine_info": {},
        "harness": {
            "schema": bench.SCHEMA,
            "conditions": {"jax": "1"},
            "recipe": {"name": "tiny", "model": {"num_layers": 3}},
            "judged": {"google-tunix": "0.1.7"},
        },
        "benchmarks": [
            {
                "name": "test_values[float32-64]",
                "extra_info": {"temp_bytes": 5, "flops": None, "tokens": 9},
                "stats": {
                    "median": 0.5,
                    "q1": 0.4,
                    "q3": 0.6,
                    "rounds": 3,
                    "data": [0.4, 0.5, 0.6],
                },
            }
        ],
    }
    return {**tree, **changes}


PLAN = {
    "schema": "tunix-ppo-harness/plan/2",
    "chip": "v6e-1",
    "hbm_bytes": 33_554_432_000,
    "versions": {"jax": "0.10.2", "libtpu": "0.0.52", "google-tunix": "0.1.7"},
    "recipe": {"name": "gemma3-1b"},
    "upstream": {"mode": "patched", "version": "0.1.7"},
    "phases": [],
    "programs": [
        {"name": "values", "micro_batch": 4, "fits": True, "temp_bytes": 7, "flops": 8},
        {"name": "values", "micro_batch": 16, "fits": True, "temp_bytes": 28, "flops": 32},
        {"name": "values", "micro_batch": 64, "fits": False, "temp_bytes": None},
    ],
}


def written(folder, tree, name="a.json"):
    path = folder / name
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return path


def test_benchmarks_are_read_with_their_conditions(tmp_path):
    found = records.read(written(tmp_path, bench_json()), FIGURES)
    assert found.exact == {"test_values[float32-64]": {"temp_bytes": 5}}
    assert found.conditions == {"jax": "1", "recipe.name": "tiny", "recipe.model.num_layers": 3}
    assert found.seconds == {"test_values[float32-64]": [0.4, 0.5, 0.6]}


def test_a_plan_has_its_programs_and_the_largest_micro_batch(tmp_path):
    found = records.read(written(tmp_path, PLAN), FIGURES)
    assert found.exact["plan/values[16]"] == {"temp_bytes": 28, "flops": 32}
    assert found.exact["plan/largest/values"] == {"largest_micro_batch": 16}
    assert found.conditions["packages.libtpu"] == "0.0.52"
    assert "packages.google-tunix" not in found.conditions


def test_a_smaller_largest_micro_batch_fails(tmp_path):
    nearer = json.loads(json.dumps(PLAN))
    nearer["programs"][1] |= {"fits": False, "temp_bytes": None, "flops": None}
    old, new = (
        records.read(written(tmp_path, tree, name), FIGURES)
        for tree, name in ((PLAN, "old.json"), (nearer, "new.json"))
    )
    output = {each.subject: each for each in exact.compare(old, new)}
    assert "largest_micro_batch 16 -> 4" in output["plan/largest/values"].text
    assert output["plan/largest/values"].text.startswith("worse")
    assert output["plan/values[16]"].text.startswith("missing")


def test_a_largest_micro_batch_that_was_searched_for_counts_before_what_was_asked(tmp_path):
    swept = {**PLAN, "largest_micro_batches": [{"name": "values", "compiles": 41, "refused": 42}]}
    found = records.read(written(tmp_path, swept), FIGURES)
    assert found.exact["plan/largest/values"] == {"largest_micro_batch": 41}


@pytest.mark.parametrize(
    ("tree", "output"),
    [
        ("not json", "is not JSON"),
        ("[1]", "holds no JSON object"),
        ({"schema": "tunix-ppo-harness/result/2"}, "tunix-ppo-harness/result/2"),
        ({"schema": "tunix-ppo-harness/baseline/9"}, "tunix-ppo-harness/baseline/9"),
        ({"schema": "tunix-ppo-harness/baseline/1"}, "of kind baseline, but kind: Field required"),
        ({**PLAN, "programs": [{"name": "values"}]}, "of kind plan, but programs.0.micro_batch"),
        ({**PLAN, "schema": "somebody/else/1"}, "somebody/else/1"),
        ({}, "names no schema"),
        (bench_json(version="4.0.0"), "pytest-benchmark 4.0.0"),
        (bench_json(harness=None), "does not hold the conditions"),
        (bench_json(harness={"schema": "tunix-ppo-harness/bench/9"}), "bench/9"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, tree, output):
    path = written(tmp_path, tree)
    with pytest.raises(HarnessError) as refusal:
        records.read(path, FIGURES)
    assert output in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(HarnessError, match="cannot be read"):
        records.read(tmp_path / "none.json", FIGURES)


def test_a_plan_is_not_compared_with_benchmarks(tmp_path):
    old, new = (
        records.read(written(tmp_path, tree, name), FIGURES)
        for tree, name in ((PLAN, "plan.json"), (bench_json(), "bench.json"))
    )
    (finding,) = exact.compare(old, new)
    assert finding.verdict == Verdict.NOT_COMPARABLE
    assert "plan.json holds plan" in finding.text


def test_a_baseline_is_what_was_written_and_keeps_its_reasons(tmp_path):
    first = record({"a": {"flops": 1}}, device="cpu", **{"recipe.name": "tiny"})
    path = baseline.path_for(tmp_path / "new", first)
    assert path.name == "exact-tiny-cpu.json"
    baseline.write(path, first, "the first")
    second = dataclasses.replace(first, exact={"a": {"flops": 2}})
    baseline.write(path, second, "twice the\nwork, as asked")
    found = baseline.read(path)
    assert found.exact == second.exact
    assert found.conditions == second.conditions
    assert [each["reason"] for each in found.history] == ["the first", "twice the work, as asked"]
    assert exact.compare(found, second)[0].verdict == Verdict.PASS


def test_a_baseline_is_not_changed_without_a_reason(tmp_path):
    path = tmp_path / "exact.json"
    with pytest.raises(HarnessError, match="--reason"):
        baseline.write(path, record({"a": {"flops": 1}}), " \n")
    assert not path.exists()
    with pytest.raises(HarnessError, match="--update-baseline"):
        baseline.read(path)


@pytest.mark.parametrize(
    ("asked", "output"),
    [
        ({"files": [pathlib.Path("a"), pathlib.Path("b"), pathlib.Path("c")]}, "3 files"),
        ({"against": "HEAD", "learning": [pathlib.Path("a")]}, "not several"),
        ({"against": "HEAD", "update_baseline": True, "reason": "x"}, "one measurement"),
        ({"update_baseline": True}, "--reason"),
    ],
)
def test_what_makes_no_sense_together_is_refused(asked, output):
    with pytest.raises(HarnessError, match=output):
        command.run(**asked)


def test_two_files_are_compared_and_one_is_held_to_the_baseline(tmp_path):
    plan = written(tmp_path, PLAN, "plan.json")
    assert command.run([plan, plan]).exit_code == 0
    kept = command.run([plan], baselines=tmp_path, update_baseline=True, reason="as planned")
    assert kept.exit_code == 0
    assert (tmp_path / "plan-gemma3-1b-v6e-1.json").exists()
    assert command.run([plan], baselines=tmp_path).verdict == Verdict.PASS
    other = written(tmp_path, {**PLAN, "versions": {"jax": "0.11.0"}}, "other.json")
    assert command.run([other], baselines=tmp_path).exit_code == 2


def test_the_command_writes_what_it_says_and_exits_as_it_answers(tmp_path, capsys):
    old = written(tmp_path, PLAN, "old.json")
    worse = json.loads(json.dumps(PLAN))
    worse["programs"][0]["flops"] = 9
    new = written(tmp_path, worse, "new.json")
    given = ["gate", str(old), str(new)]
    kept = [f"--json={tmp_path / 'output.json'}", f"--markdown={tmp_path / 'output.md'}"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*given, *kept])
    assert ended.value.code == 1
    output = json.loads((tmp_path / "output.json").read_text())
    assert output["schema"] == "tunix-ppo-harness/gate/1"
    assert output["verdict"] == "FAIL"
    assert output["tiers"] == {"exact": "FAIL"}
    assert (tmp_path / "output.md").read_text() == capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        cli.main(["gate", str(old), str(tmp_path / "none.json")])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


# Learning.


def run_json(seed, accuracy, reward=0.5, **recipe):
    return {
        "schema": run.SCHEMA,
        "recipe": {"name": "tiny", "seed": seed, **recipe},
        "environment": {},
        "upstream": {"version": "0.1.7", "mode": "patched"},
        "baseline": evaluated(0.3),
        "trained": evaluated(accuracy),
        "steps": [
            {"step": 1, "reward_mean": reward - 0.1},
            {"step": 2, "reward_mean": reward + 0.1},
        ],
        "phases": [],
    }


def evaluated(accuracy):
    return {
        "accuracy": accuracy,
        "format_accuracy": 1.0,
        "total": 512,
        "accuracy_ci95": [max(0, accuracy - 0.01), min(1, accuracy + 0.01)],
    }


def runs(folder, accuracies, **recipe):
    paths = []
    for seed, accuracy in enumerate(accuracies):
        place = folder / f"{len(list(folder.iterdir()))}"
        place.mkdir()
        written(place, run_json(seed, accuracy, accuracy / 2, **recipe), "result.json")
        paths.append(place)
    return learning.from_results(paths)


GOOD = (0.80, 0.85, 0.90, 0.82, 0.88)


def test_the_least_mean_is_where_the_t_test_turns():
    # Equal new runs have no spread of their own, which is how the limit is meant.
    limit = statistics_limit(GOOD, 5)
    assert learning.least_mean(GOOD, 5) == pytest.approx(limit, rel=1e-12)
    assert learning.least_mean([0.7] * 4, 3) == pytest.approx(0.7)


def statistics_limit(reference, count):
    """The lower end of a prediction interval for the mean of `count` more values."""
    n, found = len(reference), np.array(reference)
    scale = found.std(ddof=1) * math.sqrt(1 / n + 1 / count)
    return stats.t.isf(0.95, n - 1, loc=found.mean(), scale=scale)


def test_runs_as_good_as_the_reference_fail_as_seldom_as_said():
    draw = np.random.default_rng(1)
    failed = sum(
        draw.normal(0.8, 0.1, 5).mean() < learning.least_mean(list(draw.normal(0.8, 0.1, 5)), 5)
        for _ in range(2000)
    )
    # 5% of 2,000, and three standard errors of sqrt(2000 * 0.05 * 0.95).
    assert abs(failed - 100) < 3 * math.sqrt(95)


def test_a_recipe_that_learns_less_fails_and_one_that_learns_more_passes(tmp_path):
    reference = runs(tmp_path, GOOD)
    for accuracies, verdict in (
        (GOOD, Verdict.PASS),
        ([each + 0.1 for each in GOOD], Verdict.PASS),
        ([each - 0.3 for each in GOOD], Verdict.FAIL),
    ):
        found = learning.compare(reference, runs(tmp_path, accuracies))
        assert {each.subject: each.verdict for each in found} == {
            "reward_area": verdict,
            "accuracy": verdict,
        }


def test_too_few_runs_say_nothing(tmp_path):
    (finding,) = learning.compare(runs(tmp_path, GOOD), runs(tmp_path, GOOD[:2]))
    assert finding.verdict == Verdict.INCONCLUSIVE


def test_a_limit_below_what_no_training_reaches_is_inconclusive(tmp_path):
    scattered = (0.2, 0.9, 0.3, 0.8, 0.4)
    found = learning.compare(runs(tmp_path, scattered), runs(tmp_path, scattered))
    assert found[1].verdict == Verdict.INCONCLUSIVE
    assert "before training (0.300)" in found[1].text


def test_another_recipe_is_not_comparable_but_another_seed_is(tmp_path):
    (finding,) = learning.compare(runs(tmp_path, GOOD), runs(tmp_path, GOOD, batch=3))
    assert finding.verdict == Verdict.NOT_COMPARABLE
    assert "recipe.batch" in finding.text


def test_a_reference_is_what_was_written(tmp_path):
    found, path = runs(tmp_path, GOOD), tmp_path / "b" / "learning-tiny.json"
    learning.write(path, found, "the first")
    assert learning.read(path).runs == found.runs
    assert learning.compare(learning.read(path), found)[0].verdict == Verdict.PASS
    with pytest.raises(HarnessError, match="--reason"):
        learning.write(path, found, "")
    with pytest.raises(HarnessError, match="no reference"):
        learning.write(path, runs(tmp_path, GOOD[:2]), "two")


def test_runs_that_are_not_of_one_recipe_or_of_one_seed_are_refused(tmp_path):
    first = written(tmp_path, run_json(0, 0.5), "0.json")
    for tree, output in (
        (run_json(1, 0.5, batch=2), "recipe.batch"),
        (run_json(0, 0.6), "same seed"),
        ({"schema": "tunix-ppo-harness/result/9"}, "result/9"),
        ({**run_json(1, 0.5), "steps": []}, "has no step"),
        ({**run_json(1, 0.5), "steps": [{"step": 1}]}, "without a finite reward"),
        ({**run_json(1, 0.5), "trained": {}}, "of kind run, but trained.accuracy"),
    ):
        with pytest.raises(HarnessError, match=output):
            learning.from_results([first, written(tmp_path, tree, "1.json")])


def test_the_stored_reference_is_of_todays_tiny_recipe():
    from harness import recipe as recipe_lib

    stored = learning.read(command.ROOT / "baselines" / "learning-tiny.json")
    today = records.flat(recipe_lib.to_dict(recipe_lib.load("tiny")), "recipe")
    del today["recipe.seed"]
    # Where figures are written to changes none of them.
    today = {name: each for name, each in today.items() if not name.startswith("recipe.metrics.")}
    assert stored.recipe == today
    assert len(stored.runs) >= learning.FEWEST


# Arms: processes of a stand-in that computes, so that pairs are real.

WORKER = """
import json, os, sys, time
arguments = sys.argv[1:]
if "--core" in arguments:
    os.sched_setaffinity(0, {int(arguments[arguments.index("--core") + 1])})
def say(tree):
    print(json.dumps(tree), flush=True)
head = {"schema": "tunix-ppo-harness/bench/2", "conditions": {"backend": "cpu"},
        "recipe": {}, "judged": {"google-tunix": "1"}, "environment": {"cpu": {"count": 1}}}
def work(passes):
    total = 0
    for _ in range(passes):
        for number in range(2000):
            total += number * number
    return total
PASSES
if arguments[0] == "exact":
    say({**head, "benchmarks": {"step": {"flops": passes}}})
else:
    say(head)
    for line in sys.stdin:
        calls = json.loads(line)["calls"]
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            work(passes)
        say({"wall": (time.perf_counter() - wall) / calls,
             "cpu": (time.process_time() - cpu) / calls})
"""


def stand_in(folder, passes):
    """A checkout whose worker does real arithmetic instead of a training step."""
    place = folder / "harness" / "bench"
    place.mkdir(parents=True)
    (folder / "harness" / "__init__.py").touch()
    (place / "__init__.py").touch()
    (place / "worker.py").write_text(textwrap.dedent(WORKER).replace("PASSES", passes))
    return folder


def arm(folder, name, passes="passes = 20"):
    return arms.Arm(name, name, stand_in(folder / name, passes), sys.executable, None)


RULES_OF_TEST = timing.Rules((5, 8), (0.001, 0.001))
PLAN_OF_TEST = runner.Plan(
    timed=("step",), rounds=5, most_rounds=5, round_seconds=0.0, rules=RULES_OF_TEST
)
needs_two_cores = pytest.mark.skipif(
    len(processor.cores()) < 2, reason="pinning needs two cores, and this machine has one"
)


@needs_two_cores
def test_real_processes_that_do_the_same_raise_no_alarm(tmp_path):
    report = runner.against(arm(tmp_path, "baseline"), arm(tmp_path, "candidate"), PLAN_OF_TEST)
    output = {each.tier: each.verdict for each in report.findings}
    assert output["exact"] == Verdict.PASS
    assert output["time"] != Verdict.FAIL
    assert len(report.evidence["time"]["pairs"]) in RULES_OF_TEST.looks
    json.dumps(report.to_dict())


@needs_two_cores
def test_real_work_that_was_injected_is_caught(tmp_path):
    slow = arm(tmp_path, "candidate", "passes = 30")
    report = runner.against(arm(tmp_path, "baseline"), slow, PLAN_OF_TEST)
    output = {each.tier: each for each in report.findings}
    assert output["time"].verdict == Verdict.FAIL
    assert output["exact"].verdict == Verdict.FAIL
    assert report.exit_code == 1
    # Half as much again, plus what a call costs besides; noise of a few percent.
    assert 1.3 < output["time"].figures["ratio"] < 1.7


def test_short_benchmarks_take_more_turns_and_long_ones_the_fewest():
    class Instant:
        def __init__(self, seconds):
            self.seconds = seconds

        def ask(self, order):
            return bench.Seconds(wall=self.seconds, cpu=self.seconds)

    turns = {}
    for seconds in (0.001, 0.1, 5.0):
        live: Any = {"baseline": Instant(seconds), "candidate": Instant(seconds)}
        plan = runner.Plan(rounds=9, most_rounds=61, seconds=2.0, round_seconds=0.05)
        found = runner.time_rounds(live, "step", plan, random.Random(0))
        turns[seconds] = len(found["cpu"]["candidate"])
    # 50 calls of 1 ms fill a turn of 0.05 s; 40 such turns fill 2 s.
    assert turns == {0.001: 40, 0.1: 20, 5.0: 9}


def test_an_arm_that_does_not_run_is_reported_with_its_last_lines(tmp_path):
    broken = arm(tmp_path, "baseline", "raise ImportError('no such name in this Tunix')")
    report = runner.against(broken, arm(tmp_path, "candidate"), PLAN_OF_TEST, tiers=("exact",))
    (finding,) = report.findings
    assert finding.verdict == Verdict.NOT_COMPARABLE
    assert "ImportError: no such name in this Tunix" in finding.text
    assert "the baseline arm" in finding.text
    assert report.exit_code == 2


def test_releases_of_tunix_are_compared_as_installed_and_commits_as_patched(monkeypatch, tmp_path):
    here = arms.Arm("candidate", "here", tmp_path, sys.executable, None)
    seen = {}

    def compare(baseline, candidate, plan, *others):
        seen[baseline.label] = plan.arguments
        return Report(baseline.label, "", ())

    monkeypatch.setattr(arms, "candidate", lambda root, **options: here)
    monkeypatch.setattr(
        arms,
        "against",
        lambda name, *_: contextlib.nullcontext(dataclasses.replace(here, label=name)),
    )
    monkeypatch.setattr(runner, "against", compare)
    for name in ("tunix==0.1.6", "main"):
        command.run(against=name)
    assert "stock" in seen["tunix==0.1.6"]
    assert "patched" in seen["main"]


def test_an_arm_that_says_nothing_is_given_up(tmp_path):
    silent = arm(tmp_path, "baseline", "sys.stdin.read()")
    with (
        arms.Process(silent, [arms.WORKER, "serve"], timeout=0.2) as process,
        pytest.raises(arms.ArmFailedError, match="was silent for"),
    ):
        process.wait(bench.Header)


def test_environments_that_differ_in_more_than_what_is_judged_are_named(tmp_path, monkeypatch):
    found = {
        "baseline": {"google-tunix": "0.1.6", "jax": "1"},
        "candidate": {"google-tunix": "0.1.7"},
    }
    monkeypatch.setattr(arms, "freeze", lambda arm: found[arm.name])
    report = runner.against(
        arm(tmp_path, "baseline"), arm(tmp_path, "candidate"), PLAN_OF_TEST, tiers=("exact",)
    )
    (finding,) = report.findings
    assert finding.verdict == Verdict.NOT_COMPARABLE
    assert finding.text == "jax is 1 in the baseline's environment and absent in the candidate's"


def test_names_of_packages_are_compared_as_installers_do():
    assert arms.canonical("Array_Record") == arms.canonical("array-record") == "array-record"
    here = arms.Arm("candidate", "here", command.ROOT, sys.executable, None)
    found = arms.freeze(here)
    assert found["jax"] == jax.__version__
    assert {"tunix-ppo-harness", "pip"}.isdisjoint(found)


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    root = stand_in(tmp_path / "checkout", "passes = 20")
    for part in arms.MEASUREMENT_CODE[1:]:
        place = root / part
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("") if part.endswith(".py") else place.mkdir()
    (root / "constraints.txt").write_text("jax==1.0\nnumpy==2.0\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def test_a_reference_that_does_not_exist_is_refused(checkout):
    with pytest.raises(HarnessError, match="git knows no reference 'nowhere'"):
        arms.resolve(checkout, "nowhere")
    assert arms.resolve(checkout, "HEAD") == git(checkout, "rev-parse", "HEAD")


def test_a_worktree_with_changes_is_refused_unless_asked_for(checkout):
    assert arms.candidate(checkout).label.startswith("commit ")
    (checkout / "harness" / "new.py").write_text("x = 1\n")
    with pytest.raises(HarnessError, match=r"harness/new\.py.*--dirty"):
        arms.candidate(checkout)
    assert "uncommitted" in arms.candidate(checkout, dirty=True).label


def test_the_measurement_code_is_there():
    assert [each for each in arms.MEASUREMENT_CODE if not (command.ROOT / each).exists()] == []


def test_the_other_arm_has_the_old_code_and_the_new_measurement_code(checkout, monkeypatch):
    old = git(checkout, "rev-parse", "HEAD")
    (checkout / "harness" / "judged.py").write_text("new = True\n")
    (checkout / "harness" / "bench" / "worker.py").write_text("measured = 2\n")
    (checkout / "constraints.txt").write_text("jax==1.1\nnumpy==2.0\n")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "second")
    wanted = {}
    monkeypatch.setattr(arms, "freeze", lambda arm: {"jax": "1.1", "numpy": "2.0"})
    monkeypatch.setattr(
        arms, "environment", lambda pins, folder: wanted.update(pins) or sys.executable
    )
    here = arms.candidate(checkout)
    with arms.against(old, here, checkout / "none") as other:
        assert not (other.root / "harness" / "judged.py").exists()
        assert (other.root / "harness" / "bench" / "worker.py").read_text() == "measured = 2\n"
        assert other.commit == old
        tree = other.root
    assert not tree.exists()
    assert git(checkout, "worktree", "list").count("\n") == 0
    # It is to run with what it pinned itself.
    assert wanted == {"jax": "1.0", "numpy": "2.0"}


def test_another_tunix_runs_under_this_checkout(checkout, monkeypatch):
    wanted = {}
    monkeypatch.setattr(arms, "freeze", lambda arm: {"jax": "1.1", "google-tunix": "0.1.7"})
    monkeypatch.setattr(
        arms, "environment", lambda pins, folder: wanted.update(pins) or sys.executable
    )
    with arms.against("tunix==0.1.6", arms.candidate(checkout), checkout / "none") as other:
        assert other.root == checkout
        assert wanted == {"jax": "1.1", "google-tunix": "0.1.6"}


def test_an_environment_that_cannot_be_made_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(HarnessError, match="environment cannot be made"):
        arms.environment({"no-such-distribution-at-all": "1.0"}, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_too_few_cores_are_refused_and_a_foreign_core_too(monkeypatch):
    monkeypatch.setattr(processor, "cores", lambda: (3,))
    with pytest.raises(HarnessError, match="may use 1 core"):
        processor.choose()
    monkeypatch.setattr(processor, "cores", lambda: (3, 5))
    assert processor.choose() == 5
    assert processor.choose(3) == 3
    with pytest.raises(HarnessError, match="core 4 is not one"):
        processor.choose(4)


def test_a_process_sees_its_own_code_first_and_one_set_of_instructions(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("XLA_FLAGS", "--one")
    found = arms.settings(arm(tmp_path, "candidate"), tmp_path / "programs")
    assert found["PYTHONPATH"] == str(tmp_path / "candidate")
    assert found["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "programs")
    assert found["XLA_FLAGS"].startswith("--one")
    assert "JAX_COMPILATION_CACHE_DIR" not in arms.settings(arm(tmp_path, "b"), None)


# What `measure` gained.


def test_only_own_ears_are_taken_out_again():
    with compiles.Listener() as outer:
        with compiles.Listener() as inner:
            jax.jit(lambda x: x * 3 + 11).lower(np.ones(5)).compile()
        jax.jit(lambda x: x * 5 + 13).lower(np.ones(5)).compile()
    asked = [each.statistics.compiles + each.statistics.cache_hits for each in (inner, outer)]
    assert asked == [1, 2]
    assert outer.statistics.names == {"jit(<lambda>)": 2}
    assert outer.statistics.traces == 2


def test_a_program_from_the_cache_is_no_compile(tmp_path):
    program = textwrap.dedent("""
        import jax
        import numpy as np
        from harness.measure import compiles
        for _ in range(2):
            with compiles.Listener() as listener:
                jax.jit(lambda x: x * 3 + 17).lower(np.ones(5)).compile()
            print(listener.statistics.compiles, listener.statistics.cache_hits)
            jax.clear_caches()
    """)
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["1", "0", "0", "1"]


def test_the_roofline_is_the_slower_of_the_two_ceilings():
    chip, flops = hardware.V6E, hardware.V6E.bf16_flops
    fraction = programs.roofline_fraction
    assert fraction("TPU v6 lite", 2.0, flops, 0) == pytest.approx(0.5)
    assert fraction("TPU v6 lite", 2.0, flops, chip.bandwidth * 1.5) == pytest.approx(0.75)
    assert fraction("cpu", 2.0, 1e9, 1e9) is None
    assert fraction("TPU v6 lite", 2.0, None, 1e9) is None
