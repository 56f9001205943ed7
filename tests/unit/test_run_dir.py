"""The folder of a run: journal, lock, identity, and what is left of a failure."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import jax
import pytest

from harness import errors, files, models, training, upstream
from harness import recipe as recipe_lib
from harness.errors import HarnessError
from harness.training import run_dir
from tests.conftest import SMALL, small_recipe
from tests.support.cli import ROOT, call
from tests.support.resuming import refusal, refuse_to_write, whose


@pytest.fixture
def folder(tmp_path):
    with run_dir.claim(tmp_path / "out", small_recipe(), "patched", {}) as made:
        yield made


class Killed(BaseException):
    """Ends a run where it stands, as a signal would: nothing in the harness takes it."""


def entry(global_step: int) -> run_dir.Entry:
    return run_dir.Entry(global_step, (("actor/train/loss", 0.1 * global_step, global_step),))


def test_the_journal_is_truncated_to_a_global_step(folder):
    for number in (1, 2, 3):
        folder.record(entry(number))
    with (folder.out / "progress" / "journal.jsonl").open("a") as file:
        file.write('{"global_step": 4, "sca')  # cut off
    assert folder.journal() == [entry(1), entry(2), entry(3)]
    assert folder.truncate(2) == [("actor/train/loss", 0.1, 1), ("actor/train/loss", 0.2, 2)]
    folder.record(entry(3))
    assert folder.journal() == [entry(1), entry(2), entry(3)]
    with pytest.raises(errors.RunStopped, match="does not hold each of the 5 global steps"):
        folder.truncate(5)


def test_a_line_of_the_journal_that_cannot_be_written_is_reported(folder, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse_to_write)
    with pytest.raises(HarnessError, match=r"journal\.jsonl cannot be written \(No space left"):
        folder.record(entry(1))
    with pytest.raises(HarnessError, match=r"baseline\.json cannot be written \(No space left"):
        folder.save_stage("baseline", {})
    assert folder.stage("baseline") is None


def test_what_stood_in_a_file_still_stands_if_it_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_whole(path, "old")
    monkeypatch.setattr(os, "fsync", refuse_to_write)
    with pytest.raises(HarnessError, match="make room or give another folder"):
        files.write_whole(path, "new")
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]
    assert path.read_text() == "old"


HOLDER = """
import pathlib, sys
from harness.training import guards, run_dir
from harness import recipe
with run_dir.claim(pathlib.Path(sys.argv[1]), recipe.load("tiny"), "patched", {}):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_one_process_s_until_it_dies(tmp_path, capsys):
    out = tmp_path / "out"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "mine\n"
    for options in ((), ("--resume",)):
        assert refusal(capsys, "run", *options, "--out", out) == (
            f"another run (process {holder.pid}) is writing to {out}: let it end, or give "
            "another folder"
        )
    holder.kill()
    holder.communicate()
    with run_dir.claim(out, recipe_lib.load("tiny"), "patched", {}, resume=True) as folder:
        assert folder.resumed


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    out, recipe = tmp_path / "out", recipe_lib.load("tiny")
    with pytest.raises(Killed), run_dir.claim(out, recipe, "patched", {}):
        raise Killed
    for folder in (out, out / "progress", out / "progress" / "stages"):
        folder.mkdir(exist_ok=True)
        (folder / ".result.json.0815cafe.tmp").write_text("half")
    (out / "mine.tmp").write_text("whole")
    with run_dir.claim(out, recipe, "patched", {}, resume=True) as found:
        assert found.resumed
        assert [each.name for each in out.rglob("*.tmp")] == ["mine.tmp"]


def test_a_run_goes_on_only_as_it_began(tmp_path, capsys):
    out = tmp_path / "out"
    recipe = recipe_lib.load("tiny")
    with pytest.raises(Killed), run_dir.claim(out, recipe, "patched", {}):
        raise Killed
    for options, output in (
        (("--resume", "--set", "lora.rank=3"), "has lora.rank = 16, not 3: give the options"),
        (("--resume", "--upstream", "stock"), "has upstream = patched, not stock"),
        ((), "or go on with that run by --resume"),
    ):
        assert output in refusal(capsys, "run", *options, "--out", out)
    assert whose(out).recipe == recipe


def fail(out: pathlib.Path, name: str) -> None:
    recipe = recipe_lib.load("tiny")
    with run_dir.claim(out, recipe, "patched", {}, worth_saving=("sealed",)):
        (out / name).write_text("")
        raise HarnessError("oh")


def test_a_failed_run_leaves_what_is_worth_saving(tmp_path):
    for worth, there in (("sealed", True), ("other", False)):
        out = tmp_path / worth
        with pytest.raises(HarnessError, match="oh"):
            fail(out, worth)
        assert out.exists() == there


def test_a_folder_that_takes_nothing_is_named(capsys):
    message = refusal(capsys, "run", "--out", "/sys/run")
    assert re.fullmatch(
        r"output folder /sys/run cannot be written "
        r"\((Read-only file system|Operation not permitted|Permission denied)\): .*",
        message,
    )


@pytest.mark.parametrize("again", [False, True])
def test_sigterm_is_a_wish_and_the_second_an_order(again, capsys, tmp_path, monkeypatch):
    def run(recipe, out, *, stop, **options):
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        if again:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("it went on")
        raise run_dir.terminated(out)

    monkeypatch.setattr(training, "run", run)
    code, _, err = call(capsys, "run", "--out", tmp_path / "out")
    assert code == 143
    assert err.splitlines() == [
        "stopping once the batch in hand is done and saved",
        f"error: stopped as asked; go on with: run --resume --out {tmp_path / 'out'}",
    ]


def test_resume_alone_takes_recipe_and_mode_from_the_folder(capsys, tmp_path, monkeypatch):
    out = tmp_path / "out"
    began = recipe_lib.load("tiny", assignments=SMALL)
    with pytest.raises(Killed), run_dir.claim(out, began, "stock", {}):
        raise Killed
    seen = []

    def run(recipe, folder, *, mode, **options):
        seen.append((recipe, mode, options["resume"]))
        raise run_dir.terminated(folder)

    monkeypatch.setattr(training, "run", run)
    call(capsys, "run", "--resume", "--out", out)
    call(capsys, "run", "--resume", "--out", out, "--seed", 5)
    assert seen == [
        (began, "stock", True),
        (recipe_lib.load("tiny", overrides={"seed": 5}), "stock", True),
    ]


def test_figures_that_are_not_finite_are_null_in_the_result(finished_run):
    rows = [{"step": 1, "policy_loss": float("nan"), "value_loss": 0.5}]
    result = dataclasses.replace(finished_run.result, steps=rows)
    assert result.to_dict()["steps"] == [{"step": 1, "policy_loss": None, "value_loss": 0.5}]


def test_stages_keep_everything(finished_run):
    found = finished_run.result.baseline
    again = type(found).from_saved(json.loads(json.dumps(found.to_saved())))
    assert again == found


def test_weights_have_a_checksum_that_sees_a_bit(finished_run):
    mesh = models.make_mesh(finished_run.recipe.sharding)
    policy = models.make_policy(finished_run.recipe, mesh)
    before = models.checksum(policy)
    assert models.checksum(models.make_policy(finished_run.recipe, mesh)) == before
    scale = policy.final_norm.scale
    scale.set_value(scale.get_value().at[0].add(1e-6))
    assert models.checksum(policy) != before
    assert jax.default_backend() == "cpu"


def test_several_hosts_are_refused_with_the_known_reason(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    code, _, err = call(capsys, "run", "--out", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "2 hosts are joined here" in err
    assert "known issue several-hosts: " in err
    assert upstream.known_issue("several-hosts").fix is None
    assert not (tmp_path / "out").exists()
