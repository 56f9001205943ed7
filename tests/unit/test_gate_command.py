"""The command: what is asked together, what it writes, and its exit code."""

import contextlib
import dataclasses
import json
import pathlib
import sys

import pytest

from harness import cli
from harness.errors import HarnessError
from harness.gate import (
    Finding,
    Report,
    Verdict,
    arms,
    command,
    runner,
)
from harness.gate.verdict import worst
from tests.support.gate_samples import PLAN, written


def test_the_gravest_verdict_and_its_exit_code():
    def code(*output):
        return Report("a", "b", tuple(Finding("time", "x", each, "") for each in output)).exit_code

    assert worst(Verdict) == Verdict.FAIL
    assert code(Verdict.PASS) == 0
    assert code(Verdict.PASS, Verdict.NOT_COMPARABLE, Verdict.FAIL) == 1
    assert code(Verdict.PASS, Verdict.INCONCLUSIVE) == 2
    assert code(Verdict.PASS, Verdict.NOT_COMPARABLE) == 2


def test_markdown_names_what_did_not_pass_first_and_breaks_no_table():
    found = (
        Finding("time", "step", Verdict.PASS, "CPU time +0.1%"),
        Finding("exact", "actor", Verdict.FAIL, "worse: flops | 1 ->\n2"),
    )
    text = Report("main", "branch", found).to_markdown()
    assert text.startswith("## Gate: FAIL")
    assert text.index("`actor`") < text.index("`step`")
    assert "flops \\| 1 -> 2" in text


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
        command.run(command.Request(**asked))


def test_two_files_are_compared_and_one_is_compared_with_the_baseline(tmp_path):
    plan = written(tmp_path, PLAN, "plan.json")
    assert command.run(command.Request([plan, plan])).exit_code == 0
    stored = command.run(
        command.Request([plan], baselines=tmp_path, update_baseline=True, reason="as planned")
    )
    assert stored.exit_code == 0
    assert (tmp_path / "plan-gemma3-1b-v6e-1.json").exists()
    assert command.run(command.Request([plan], baselines=tmp_path)).verdict == Verdict.PASS
    other = written(tmp_path, {**PLAN, "versions": {"jax": "0.11.0"}}, "other.json")
    assert command.run(command.Request([other], baselines=tmp_path)).exit_code == 2


def test_the_command_writes_what_it_prints_and_exits_with_its_verdict(tmp_path, capsys):
    old = written(tmp_path, PLAN, "old.json")
    worse = json.loads(json.dumps(PLAN))
    worse["programs"][0]["flops"] = 9
    new = written(tmp_path, worse, "new.json")
    given = ["gate", str(old), str(new)]
    written_to = [f"--json={tmp_path / 'output.json'}", f"--markdown={tmp_path / 'output.md'}"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*given, *written_to])
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
        command.run(command.Request(against=name))
    assert "stock" in seen["tunix==0.1.6"]
    assert "patched" in seen["main"]
