"""Runs that are stopped, killed or damaged, and go on."""

import functools
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from metrax.logging import tensorboard_backend
from tunix.sft import checkpoint_manager

from harness import errors, upstream
from harness import recipe as recipe_lib
from harness import tokenizer as tokenizer_lib
from harness.upstream.engine import cluster as cluster_lib
from harness.upstream.instrument import dry_run
from tests.conftest import SMALL_OPTIONS, small_recipe
from tests.support import killing
from tests.support.cli import ROOT, call
from tests.support.resuming import at, refusal, refuse_to_write, whose

# Optimizer step of the small recipe's last checkpoint.
LAST = recipe_lib.summarize(
    small_recipe(), overshoots=upstream.standing("max-steps-overshoot")
).checkpoint_steps[-1]


def test_two_runs_with_one_seed_are_bit_identical_however_often_one_is_stopped(
    finished_run, tmp_path, ppo_compiled_programs, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    out = pathlib.Path("deep", "again")  # relative, as a person types it
    # SIGKILL, to a process of its own, while it makes the second batch's updates.
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(ppo_compiled_programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "run", *SMALL_OPTIONS, "--out", str(out)],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    while killing.now(out) != ("train", 2):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert upstream.latest(out, whose(out).id).step == 2
    # Another run's checkpoints lie there too. Asked to end, it finishes the
    # batch in hand and saves it.
    for role in ("actor", "critic"):
        shutil.copytree(
            finished_run.out / "checkpoints" / role / str(LAST),
            out / "checkpoints" / role / str(LAST),
        )
    # A second wish would be an order.
    once = functools.cache(functools.partial(os.kill, os.getpid(), signal.SIGTERM))
    with monkeypatch.context() as patch:
        at(patch, "train", 2, once)
        code, output, err = call(capsys, "run", "--resume", "--out", out)
    assert code == 143
    assert err.splitlines()[-1] == f"error: stopped as asked; go on with: run --resume --out {out}"
    output = " ".join(output.split())
    refused = f"checkpoint of step {LAST} in {out / 'checkpoints'} is refused: it is not of this"
    assert refused in output
    assert "training goes on from optimizer step 2" in output
    assert (out / "refused" / f"actor-{LAST}").is_dir()
    assert upstream.latest(out, whose(out).id).step == LAST
    # To its end, and it is reported.
    code, output, err = call(capsys, "run", "--resume", "--require-gain", "--out", out)
    assert (code, err) == (int(not finished_run.result.gained), "")
    for words in ("before PPO", "after PPO", f"(patched); fixes: {finished_run.result.fixes[0]}"):
        assert words in " ".join(output.split())
    assert killing.differences(out, finished_run.out) == []
    # Complete: nothing is done again.
    before = (out / "result.json").read_bytes()
    code, output, _ = call(capsys, "run", "--resume", "--out", out)
    assert (code, "is complete" in " ".join(output.split())) == (0, True)
    assert (out / "result.json").read_bytes() == before


def test_a_disk_that_is_full_between_actor_and_critic_leaves_the_checkpoint_before(
    tmp_path, monkeypatch
):
    recipe = small_recipe(
        "data.num_batches=2", "optimizers.max_steps=all", "checkpoints.save_interval_steps=1"
    )
    tokenizer = tokenizer_lib.load(recipe)
    fixes = upstream.choose_fixes("patched")
    play = functools.partial(
        dry_run.run, recipe, tokenizer=tokenizer, fixes=fixes, directory=tmp_path
    )
    play(batches=1)
    assert upstream.saved_steps(tmp_path, "critic") == [2]
    save = checkpoint_manager.CheckpointManager.save

    def no_room_for_the_critic(self, *args, **kwargs):
        if kwargs["custom_metadata"]["role"] == "critic":
            refuse_to_write()
        return save(self, *args, **kwargs)

    monkeypatch.setattr(checkpoint_manager.CheckpointManager, "save", no_room_for_the_critic)
    with pytest.raises(
        errors.RunStopped, match=r"step 4 cannot be written .*No space left on device\): make room"
    ):
        play(batches=2)
    assert upstream.saved_steps(tmp_path, "critic") == [2]
    # Where the disk tells so beforehand, nothing is begun.
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda root: types.SimpleNamespace(free=9))
    with pytest.raises(errors.RunStopped, match=r"\(it takes .* bytes, 9 are free\): make room"):
        play(batches=1, directory=tmp_path / "other")


def test_a_write_that_fails_in_the_middle_of_a_checkpoint_is_reported(
    tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = cluster_lib.EngineCluster.save_checkpoints

    def save_where_files_are_small(cluster):
        if not upstream.saved_steps(out):
            return save(cluster)
        # What fails now fails in threads of the writers.
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
        try:
            return save(cluster)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(cluster_lib.EngineCluster, "save_checkpoints", save_where_files_are_small)
    assert refusal(capsys, "run", *SMALL_OPTIONS, "--out", out) == (
        f"the checkpoint of step {LAST} cannot be written (File too large): make room, then go on "
        "from the one before by --resume"
    )
    assert upstream.latest(out, whose(out).id) == upstream.Point(2, 1)
    assert upstream.saved_steps(out, "actor") == upstream.saved_steps(out, "critic") == [2]
    assert not (out / "result.json").exists()


def test_figures_that_tensorboard_cannot_write_stop_a_run_that_does_not_hang(tmp_path):
    backend = tensorboard_backend.TensorboardBackend(log_dir=str(tmp_path))
    writer: Any = backend._writer
    records = writer.file_writer.event_writer._ev_writer._py_recordio_writer
    cluster: Any = types.SimpleNamespace(
        _rl_metrics_logger=types.SimpleNamespace(
            _backends=[backend],
            log=lambda prefix, name, value, mode, step: backend.log_scalar(name, value, step=step),
        )
    )
    scalars = upstream.Scalars(cluster)

    def log(count: int) -> None:
        for step in range(count):
            cluster._rl_metrics_logger.log("actor", "loss", 1.0, "train", step)

    with open("/dev/full", "wb", buffering=0) as full:
        records._writer = full
        # Many more than the writer's queue takes.
        with pytest.raises(errors.RunStopped, match=r"written \(No space left on device\): make"):
            log(10_000)
        backend.close()
    with pytest.raises(errors.RunStopped, match="make room"):
        scalars.check_written()


def largest(folder: pathlib.Path) -> pathlib.Path:
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def test_two_runs_that_are_compared_are_not_always_alike(finished_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(finished_run.out, other)
    assert killing.differences(other, finished_run.out) == []
    (other / "samples.jsonl").write_text("")
    shutil.rmtree(other / "tensorboard")
    for role in ("actor", "critic"):
        shutil.rmtree(other / "checkpoints" / role / str(LAST))
        shutil.copytree(
            other / "checkpoints" / role / "2", other / "checkpoints" / role / str(LAST)
        )
    found = killing.differences(other, finished_run.out)
    assert {"samples.jsonl", "tensorboard"} <= set(found)
    assert any(name.startswith("critic/optimizer_state/") for name in found)
    assert any(name.startswith("actor/model_params/") for name in found)


def damage_of_a_byte(out: pathlib.Path) -> str:
    path = largest(out / "checkpoints" / "critic" / str(LAST))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return "is not what the run wrote, it is damaged or foreign"


def truncation(out: pathlib.Path) -> str:
    path = largest(out / "checkpoints" / "actor" / str(LAST))
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    name = path.relative_to(out / "checkpoints").as_posix()
    return f"{name} has {len(content) - 100} bytes of {len(content)}, it is truncated or foreign"


def loss_of_a_file(out: pathlib.Path) -> str:
    path = largest(out / "checkpoints" / "critic" / str(LAST))
    path.unlink()
    return f"it lacks {path.relative_to(out / 'checkpoints').as_posix()}"


def foreign(out: pathlib.Path) -> str:
    path = out / "checkpoints" / "actor" / str(LAST) / "_CHECKPOINT_METADATA"
    tree = json.loads(path.read_text())
    tree["custom_metadata"]["run"] = "another"
    path.write_text(json.dumps(tree))
    (out / "checkpoints" / "sealed" / f"{LAST}.json").unlink()
    return "it is not of this run"


def sealed_by_another(out: pathlib.Path) -> str:
    path = out / "checkpoints" / "sealed" / f"{LAST}.json"
    path.write_text(path.read_text().replace(whose(out).id, "another"))
    return "it is of another run"


def cut_before_the_critic(out: pathlib.Path) -> str:
    (out / "checkpoints" / "sealed" / f"{LAST}.json").unlink()
    shutil.rmtree(out / "checkpoints" / "critic" / str(LAST))
    return "the run was cut off before the critic was saved"


def cut_before_the_seal(out: pathlib.Path) -> str:
    (out / "checkpoints" / "sealed" / f"{LAST}.json").unlink()
    return "the run was cut off before it was known to be whole"


def torn_seal(out: pathlib.Path) -> str:
    (out / "checkpoints" / "sealed" / f"{LAST}.json").write_text("{")
    return "its seal cannot be read"


@pytest.mark.parametrize(
    "spoil",
    [
        damage_of_a_byte,
        truncation,
        loss_of_a_file,
        foreign,
        sealed_by_another,
        cut_before_the_critic,
        cut_before_the_seal,
        torn_seal,
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_refused_by_name_and_the_one_before_is_used(
    spoil: Callable[[pathlib.Path], str], finished_run, tmp_path
):
    out = tmp_path / "out"
    shutil.copytree(finished_run.out, out)
    run = whose(out).id
    assert upstream.latest(out, run) == upstream.Point(LAST, 2)
    torn = out / "checkpoints" / "actor" / "6.orbax-checkpoint-tmp-7"
    torn.mkdir()
    why = spoil(out)
    point = upstream.latest(out, run)
    assert (point.step, point.global_step) == (2, 1)
    (output,) = point.refused
    assert output.startswith(f"checkpoint of step {LAST} in {out / 'checkpoints'} is refused: ")
    assert why in output
    upstream.roll_back(out, point, run)
    assert not torn.exists()
    for role in ("actor", "critic"):
        assert upstream.saved_steps(out, role) == [2]
    # What this run left half done may go; what it may not have written is kept.
    own = spoil in (cut_before_the_critic, cut_before_the_seal)
    assert (out / "refused").exists() != own
    assert upstream.latest(out, run) == upstream.Point(2, 1)


@pytest.fixture
def all_but_finished(finished_run, tmp_path) -> pathlib.Path:
    """A run that ended just before it wrote its result."""
    out = tmp_path / "out"
    shutil.copytree(finished_run.out, out)
    (out / "result.json").unlink()
    return out


def test_resuming_reports_a_refused_checkpoint_and_loses_nothing(
    finished_run, all_but_finished, capsys
):
    out = all_but_finished
    why = truncation(out)
    code, output, err = call(capsys, "run", "--resume", "--out", out)
    assert (code, err) == (0, "")
    message = " ".join(output.split())
    assert f"checkpoint of step {LAST} in {out / 'checkpoints'} is refused: " in message
    assert why in message
    assert "training goes on from optimizer step 2" in message
    assert killing.differences(out, finished_run.out) == []


def test_weights_that_are_not_those_the_run_began_with_are_refused(all_but_finished, capsys):
    out = all_but_finished
    (kept,) = out.rglob("policy.json")
    began = json.loads(kept.read_text())
    kept.write_text(json.dumps({**began, "sha256": "0" * 64}))
    assert refusal(capsys, "run", "--resume", "--out", out) == (
        f"the policy before PPO has checksum {began['sha256'][:12]}, the run in {out} began with "
        "000000000000: give the checkpoint and the libraries that it began with, or begin anew"
    )
