"""The session on a chip, as far as a machine without one can tell."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import types

import jax
import pytest

from harness import doctor, e2e, training
from harness import recipe as recipe_lib
from harness.errors import HarnessError
from tests.support.cli import ROOT, call


@pytest.mark.parametrize("device", ["tpu", "gpu"])
def test_without_the_chip_one_line_names_what_can_be_done(device, capsys, tmp_path):
    code, out, err = call(capsys, "e2e", "--device", device, "--out", tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"no {device.upper()} is here" in err
    assert "`nox -s cpu_e2e`" in err
    assert "`nox -s plan`" in err
    assert not (tmp_path / "out").exists()


def test_nox_hands_on_that_the_chip_is_missing(tmp_path):
    """The session itself; what it would install is here already."""
    nox = pathlib.Path(sys.executable).with_name("nox")
    text = (ROOT / "noxfile.py").read_text()
    assert 'install(session, *(["tpu"] if _has_tpu() else []))' in text
    text = text.replace('install(session, *(["tpu"] if _has_tpu() else []))', "pass")
    (tmp_path / "noxfile.py").write_text(text)
    (tmp_path / "constraints.txt").write_text("")
    folder = os.path.dirname(sys.executable)
    ended = subprocess.run(
        [str(nox), "-f", str(tmp_path / "noxfile.py"), "--no-venv", "-s", "tpu_e2e"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        },
    )
    assert ended.returncode == 2
    assert (ended.stdout + ended.stderr).count("error: no TPU is here") == 1


def device(platform: str, kind: str) -> types.SimpleNamespace:
    return types.SimpleNamespace(platform=platform, device_kind=kind)


def test_a_machine_with_the_chip_is_let_through(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [device("tpu", "TPU v6 lite")] * 8)
    doctor.require("tpu")
    assert e2e.chip() == "v6e-8"
    with pytest.raises(HarnessError, match="no GPU is here"):
        doctor.require("gpu")
    monkeypatch.setattr(jax, "devices", lambda: [device("gpu", "H100")])
    assert e2e.chip() is None


def test_a_backend_that_cannot_start_is_a_chip_that_is_missing(monkeypatch):
    def fail():
        raise RuntimeError("Unable to initialize backend 'tpu': it is in use\nby others")

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(HarnessError, match=r"no TPU is here \(Unable .*: it is in use\)"):
        doctor.require("tpu")


def test_the_recipe_is_the_references_unless_asked_otherwise():
    given = recipe_lib.load("gemma3-1b")
    found = e2e.recipe_for(given, "tpu", None)
    assert found == recipe_lib.replace(
        given, 'model.checkpoint="kaggle:google/gemma-3/flax/gemma3-1b-it"'
    )
    own = recipe_lib.replace(given, 'model.checkpoint="gs://mine"')
    smoke = e2e.recipe_for(own, "gpu", 2)
    assert smoke.model.checkpoint == "gs://mine"
    assert smoke.model.dtype == "bfloat16"
    assert (smoke.data.num_batches, smoke.data.num_test_batches) == (2, 2)
    assert e2e.recipe_for(own, "tpu", 99) == own


def test_what_is_missing_is_reported_before_anything_is_downloaded(tmp_path):
    recipe = recipe_lib.load("gemma3-1b", assignments=[f"data.source=jsonl:{tmp_path}"])
    with pytest.raises(HarnessError, match=r"no train.jsonl and test.jsonl in|credentials: none"):
        e2e.examine(recipe, force=True)


PLAN = """
import json, pathlib, sys
arguments = sys.argv
assert arguments[1] == "plan" and arguments[arguments.index("--chip") + 1] == "v6e-1"
assert pathlib.Path(arguments[arguments.index("--recipe") + 1]).read_text().startswith("name =")
tree = {"phases": [{"name": "rollout", "fits": True}, {"name": "train", "fits": CODE == 0}]}
if CODE < 2:
    pathlib.Path(arguments[arguments.index("--json") + 1]).write_text(json.dumps(tree))
else:
    print("error: no libtpu", file=sys.stderr)
sys.exit(CODE)
"""


@pytest.mark.parametrize(
    ("code", "output"),
    [
        (0, None),
        (1, r"does not fit v6e-1 \(train\)"),
        (2, "whether the recipe fits v6e-1 could not be found out: error: no libtpu"),
    ],
)
def test_the_plan_decides_before_anything_is_downloaded(code, output, monkeypatch, tmp_path):
    """`python -m harness plan` by its contract: exit codes, and the JSON that it writes."""
    package = tmp_path / "harness"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(PLAN.replace("CODE", str(code)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(e2e.importlib.util, "find_spec", lambda name: name)
    recipe = recipe_lib.load("gemma3-1b")
    if output is None:
        found = e2e.plan(recipe, "v6e-1", "patched")
        assert found is not None
        assert [each["name"] for each in found["phases"]] == ["rollout", "train"]
    else:
        with pytest.raises(HarnessError, match=output):
            e2e.plan(recipe, "v6e-1", "patched")


def test_an_installation_without_a_plan_is_not_asked(monkeypatch):
    monkeypatch.setattr(e2e.importlib.util, "find_spec", lambda name: None)
    assert e2e.plan(recipe_lib.load("gemma3-1b"), "v6e-1", "patched") is None


def verdicts(result: training.Result, planned: dict | None = None) -> dict[str, bool | None]:
    return {each.name: each.holds for each in e2e.figures(result, planned)}


def test_a_good_run_holds_to_every_expectation(finished_run, monkeypatch):
    figures = {each.name: each for each in e2e.figures(finished_run.result, None)}
    assert False not in {each.holds for each in figures.values()}
    summary = finished_run.result.summary
    assert figures["global steps"].expected == str(summary.global_steps) == "2"
    step = str(summary.checkpoint_steps[-1])
    assert figures["optimizer step of the checkpoint"].measured == step
    rate = figures["completion tokens per second of training"].measured
    seconds = next(p["seconds"] for p in finished_run.json["phases"] if p["name"] == "train")
    drawn = sum(8 * row["completion_tokens_mean"] for row in finished_run.json["steps"])
    assert float(rate) == pytest.approx(drawn / seconds, abs=0.05)
    assert figures["peak device memory"].measured == "not reported by this device"


def test_a_bad_run_does_not(finished_run, monkeypatch):
    result = finished_run.result
    good = dataclasses.replace(
        result.baseline, accuracy_ci95=(0.4, 0.6), format_accuracy_ci95=(0.9, 1.0)
    )
    bad = dataclasses.replace(result.trained, accuracy=0.39, format_accuracy=0.8, total=12)
    phases = [{**each, "peak_bytes": 40 * 2**30} for each in result.phases]
    limit = types.SimpleNamespace(limit=32 * 2**30)
    monkeypatch.setattr(e2e.memory, "device_memory", lambda: [limit])
    found = dataclasses.replace(
        result,
        baseline=good,
        trained=bad,
        phases=phases,
        steps=result.steps[:1],
        checkpoint_step=2,
    )
    planned = {"phases": [{"peak_bytes": 20 * 2**30}]}
    assert {name for name, holds in verdicts(found, planned).items() if holds is False} == {
        "accuracy after PPO",
        "format accuracy after PPO",
        "test problems",
        "global steps",
        "optimizer step of the checkpoint",
        "peak device memory",
    }
    (peak,) = [e for e in e2e.figures(found, planned) if e.name == "peak device memory"]
    assert peak.expected == "20.00 GiB compiled, at most 32.00 GiB"


def test_the_command_runs_plans_and_judges(finished_run, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [device("tpu", "TPU v6 lite")])
    monkeypatch.setattr(e2e, "examine", lambda recipe, **options: doctor.Report(()))
    planned = {"phases": [{"peak_bytes": 2**30}]}
    asked = []
    monkeypatch.setattr(e2e, "plan", lambda *args: asked.append(args[1:]) or planned)
    results = [
        finished_run.result,
        dataclasses.replace(finished_run.result, checkpoint_step=2),
    ]
    monkeypatch.setattr(training, "run", lambda recipe, out, **options: results.pop(0))
    for expected in (0, 1):
        code, out, _ = call(capsys, "e2e", "--max-batches", 1, "--out", tmp_path / "out")
        assert code == expected
        assert "planned for v6e-1: it fits" in out
        assert ("NO" in out) == bool(expected)
    assert asked == [("v6e-1", "patched")] * 2
