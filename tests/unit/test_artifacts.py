"""The models of what is written: what writers write is what they say, and nothing is lost."""

import json
import pathlib

import pydantic
import pytest

from harness import evaluation, training, upstream
from harness import recipe as recipe_lib
from harness.artifacts import check, gate, plan, reading, run
from harness.checks import runner
from harness.errors import HarnessError
from harness.gate.verdict import Finding, Report, Verdict
from harness.measure import environment
from harness.run_warning import RunWarning

ROOT = pathlib.Path(__file__).parents[2]
FILES = [
    *((path, plan.Plan) for path in sorted((ROOT / "plans").rglob("*.json"))),
    *((path, gate.Baseline) for path in sorted((ROOT / "baselines").glob("exact-*.json"))),
    *((path, gate.Reference) for path in sorted((ROOT / "baselines").glob("learning-*.json"))),
]


@pytest.mark.parametrize(("path", "model"), FILES, ids=lambda each: getattr(each, "name", ""))
def test_nothing_of_a_committed_file_is_lost(path, model):
    tree = json.loads(path.read_text())
    assert reading.read(path, model).to_json() == tree


def evaluated(accuracy: float) -> evaluation.Evaluation:
    interval = (accuracy - 0.1, accuracy + 0.1)
    names = {"accuracy": accuracy, "format_accuracy": 1.0, "total": 100}
    intervals = {"accuracy_ci95": interval, "format_accuracy_ci95": (0.9, 1.0)}
    return evaluation.Evaluation(**names, **intervals, samples=())  # type: ignore[arg-type]


def test_the_result_of_a_run_is_what_its_model_says():
    recipe = recipe_lib.load("tiny")
    result = training.Result(
        recipe=recipe,
        environment=environment.fingerprint(),
        summary=recipe_lib.summarize(recipe),
        mode="stock",
        fixes=(),
        problems={"train": 9},
        long_prompts={"train": 1},
        warm_start=None,
        baseline=evaluated(0.3),
        trained=evaluated(0.8),
        steps=[{"step": 1, "reward_mean": float("nan"), "value_loss": 0.5, "kl": 0.1}],
        phases=[{"name": "train", "seconds": 2.0, "compile_seconds": 1.0, "peak_bytes": None}],
        checkpoint_step=80,
        warnings=(RunWarning("stop-tokens", "No completion stopped."),),
    )
    tree = json.loads(json.dumps(result.to_dict()))
    found = run.Run.model_validate(tree)
    assert found.to_json() == tree
    assert set(tree) == {field.alias or name for name, field in run.Run.model_fields.items()}
    assert found.gained == result.gained
    assert found.warnings == [run.Message(id="stop-tokens", text="No completion stopped.")]
    assert found.steps[0].reward_mean is None


def test_a_check_writes_its_model():
    findings = [runner.Finding(upstream.KNOWN_ISSUES[0], True, False, None)]
    tree = runner.Report("stock", "0.1.7", [], findings).to_dict()
    assert tree["ok"] is True
    assert tree["defects"][0]["id"] == upstream.KNOWN_ISSUES[0].id
    assert check.Check.model_validate(json.loads(json.dumps(tree))).to_json() == tree


def test_a_gate_writes_its_model_and_keeps_its_figures_and_evidence():
    figures = {"ratio": 1.5, "runs": [0.1, 0.2]}
    found = (Finding("time", "step", Verdict.FAIL, "slower", figures),)
    tree = Report("a", "b", found, {"cpu": {"model": "x"}, "tool": 1}, {"time": [1]}).to_dict()
    assert tree["schema"] == gate.SCHEMA
    assert tree["tiers"] == {"time": "FAIL"}
    assert tree["findings"][0]["figures"] == figures
    assert tree["environment"] == {"cpu": {"model": "x"}, "tool": 1}
    assert tree["evidence"] == {"time": [1]}


def test_a_writer_cannot_write_what_no_reader_takes():
    found = (Finding("time", "step", Verdict.FAIL, "slower", {"ratio": -1.0}),)
    with pytest.raises(pydantic.ValidationError):
        Report("a", "b", found).to_dict()


def test_bytes_are_stacked_by_kind_and_only_what_is_there():
    names = ("actor base", "actor LoRA", "critic", "critic first moment", "temporaries", "new")
    pieces = [plan.Piece(name=name, bytes=10**place) for place, name in enumerate(names)]
    others = [plan.Piece(name="code", bytes=0), plan.Piece(name="inputs", bytes=-3)]
    assert plan.by_kind([*pieces, *others]) == {
        "actor, frozen base": 1,
        "actor, LoRA and its optimizer": 10,
        "critic, its optimizer": 1000,
        "critic, weights": 100,
        "temporaries": 10_000,
        "other": 100_000,
    }


def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(HarnessError, match=r"a\.json cannot be read"):
        reading.load(path)
    path.write_text("{")
    with pytest.raises(HarnessError, match=r"a\.json is not JSON"):
        reading.load(path)
    with pytest.raises(HarnessError, match=r"of schema 'tunix-ppo-harness/plan/9'"):
        reading.recognise(path, {"schema": "tunix-ppo-harness/plan/9"})
    with pytest.raises(HarnessError, match=r"is of kind plan, but hbm_bytes: .* write it anew"):
        reading.validated(path, "plan", {"schema": plan.SCHEMA, "chip": "v6e-1"})
