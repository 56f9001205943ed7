"""The files that the gate reads and writes: benchmarks, plans and baselines."""

import dataclasses
import json

import pytest

from harness.errors import HarnessError
from harness.gate import (
    Verdict,
    baseline,
    exact,
    records,
)
from tests.support.gate_samples import FIGURES, PLAN, bench_json, record, written


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


def test_a_baseline_is_what_was_written_with_every_reason(tmp_path):
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
