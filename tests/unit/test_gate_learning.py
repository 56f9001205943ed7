"""The learning tier: runs beside reference runs."""

import math

import numpy as np
import pytest
from scipy import stats

from harness import recipe as recipe_lib
from harness.artifacts import run
from harness.errors import HarnessError
from harness.gate import (
    Verdict,
    command,
    learning,
    records,
)
from tests.support.gate_samples import written


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
        "checkpoint_step": 2,
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
        run_dir = folder / f"{len(list(folder.iterdir()))}"
        run_dir.mkdir()
        written(run_dir, run_json(seed, accuracy, accuracy / 2, **recipe), "result.json")
        paths.append(run_dir)
    return learning.from_results(paths)


GOOD = (0.80, 0.85, 0.90, 0.82, 0.88)


def test_the_least_mean_is_where_the_t_test_changes_its_answer():
    # Equal new runs have no spread of their own, which is how the limit is meant.
    limit = statistics_limit(GOOD, 5)
    assert learning.least_mean(GOOD, 5) == pytest.approx(limit, rel=1e-12)
    assert learning.least_mean([0.7] * 4, 3) == pytest.approx(0.7)


def statistics_limit(reference, count):
    """The lower end of a prediction interval for the mean of `count` more values."""
    n, found = len(reference), np.array(reference)
    scale = found.std(ddof=1) * math.sqrt(1 / n + 1 / count)
    return stats.t.isf(0.95, n - 1, loc=found.mean(), scale=scale)


def test_runs_as_good_as_the_reference_fail_as_seldom_as_stated():
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


def test_too_few_runs_are_inconclusive(tmp_path):
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

    stored = learning.read(command.ROOT / "baselines" / "learning-tiny.json")
    today = records.flat(recipe_lib.to_dict(recipe_lib.load("tiny")), "recipe")
    del today["recipe.seed"]
    # Where figures are written to changes none of them.
    today = {name: each for name, each in today.items() if not name.startswith("recipe.metrics.")}
    assert stored.recipe == today
    assert len(stored.runs) >= learning.FEWEST
