"""Runs that are killed, stopped or out of room, and go on; folders that are another's."""

import dataclasses
import errno
import functools
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from metrax.logging import tensorboard_backend
from tunix.sft import checkpoint_manager

from harness import errors, files, models, training, upstream
from harness import recipe as recipe_lib
from harness import tokenizer as tokenizer_lib
from harness.errors import HarnessError
from harness.training import guards, run_dir
from harness.upstream.engine import cluster as cluster_lib
from harness.upstream.instrument import dry_run
from tests import killing
from tests.conftest import SMALL, SMALL_OPTIONS, small_recipe
from tests.test_cli import ROOT, call

# Optimizer step of the small recipe's last checkpoint.
LAST = recipe_lib.summarize(
    small_recipe(), overshoots=upstream.standing("max-steps-overshoot")
).checkpoint_steps[-1]


class Killed(BaseException):
    """Ends a run where it stands, as a signal would: nothing in the harness takes it."""


def refuse_to_write(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def whose(out: pathlib.Path) -> run_dir.Identity:
    found = run_dir.identity_of(out)
    assert found is not None
    return found


def at(
    patch: pytest.MonkeyPatch, phase: str, global_step: int | None, act: Callable[[], object]
) -> None:
    """Act when the next run says that it begins a phase."""
    now = run_dir.RunDirectory.now

    def saying(self: run_dir.RunDirectory, what: str, **details) -> None:
        now(self, what, **details)
        if (what, details.get("global_step")) == (phase, global_step):
            act()

    patch.setattr(run_dir.RunDirectory, "now", saying)


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


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """Return the sentence with which a command is refused, by the exit code 2 and no other word."""
    code, _, err = call(capsys, *arguments)
    (line,) = err.splitlines()
    assert (code, line[:7]) == (2, "error: ")
    return line[7:]


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


def entry(global_step: int) -> run_dir.Entry:
    return run_dir.Entry(global_step, (("actor/train/loss", 0.1 * global_step, global_step),))


@pytest.fixture
def kept(tmp_path):
    with run_dir.claim(tmp_path / "out", small_recipe(), "patched", {}) as made:
        yield made


def test_the_journal_is_truncated_to_a_global_step(kept):
    for number in (1, 2, 3):
        kept.record(entry(number))
    with (kept.out / "progress" / "journal.jsonl").open("a") as file:
        file.write('{"global_step": 4, "sca')  # cut off
    assert kept.journal() == [entry(1), entry(2), entry(3)]
    assert kept.truncate(2) == [("actor/train/loss", 0.1, 1), ("actor/train/loss", 0.2, 2)]
    kept.record(entry(3))
    assert kept.journal() == [entry(1), entry(2), entry(3)]
    with pytest.raises(errors.RunStopped, match="does not hold each of the 5 global steps"):
        kept.truncate(5)


def test_a_line_of_the_journal_that_cannot_be_written_is_reported(kept, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse_to_write)
    with pytest.raises(HarnessError, match=r"journal\.jsonl cannot be written \(No space left"):
        kept.record(entry(1))
    with pytest.raises(HarnessError, match=r"baseline\.json cannot be written \(No space left"):
        kept.save_stage("baseline", {})
    assert kept.stage("baseline") is None


def test_what_stood_in_a_file_still_stands_if_it_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_whole(path, "old")
    monkeypatch.setattr(os, "fsync", refuse_to_write)
    with pytest.raises(HarnessError, match="make room or give another place"):
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
    with run_dir.claim(out, recipe_lib.load("tiny"), "patched", {}, resume=True) as kept:
        assert kept.resumed


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


def nan_at_the_third(prompts, completions, **columns):
    """A reward that fails on one completion."""
    del columns
    scores = [1.0] * len(completions)
    scores[2] = float("nan")
    return scores


def test_a_reward_that_is_not_finite_stops_the_run_and_keeps_the_batch(tmp_path, capsys):
    out = tmp_path / "out"
    failing = ("--set", "reward.function=tests.test_resume:nan_at_the_third")
    message = refusal(capsys, "run", *SMALL_OPTIONS, *failing, "--out", out)
    assert message.startswith(
        "the reward is not finite in global step 1, rollout: the batch is in "
    )
    (path,) = (out / "not_finite").iterdir()
    with np.load(path) as batch:
        assert np.flatnonzero(~np.isfinite(batch["scores"])).tolist() == [2]
        assert len(batch["prompts"]) == len(batch["completions"]) == len(batch["answer"]) == 8
    assert not list(out.glob("checkpoints/sealed/*"))


@dataclasses.dataclass
class Recorded:
    """Figures as a cluster would log them."""

    figures: list

    def __len__(self):
        return len(self.figures)

    def since(self, count):
        return self.figures[count:]


EXAMPLE = upstream.TrainExample(
    **{
        name: np.arange(2.0)
        for name in (
            *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"),
            *("ref_per_token_logps", "old_per_token_logps", "returns", "old_values"),
        )
    }
)


@pytest.mark.parametrize(
    ("event", "what"),
    [
        ("actor/train/loss", "the policy loss"),
        ("critic/train/loss", "the value loss"),
        ("actor/train/grad_norm", "the actor's gradient"),
        ("critic/train/grad_norm", "the critic's gradient"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_stops_the_run_and_keeps_the_batch(event, what, value, kept):
    recorded: Any = Recorded(
        [("actor/train/loss", 1.0, 2), ("rewards/train/score/max", float("nan"), 1)]
    )
    output: list[str] = []
    patient = guards.Guard(
        kept, recorded, training.Options(continue_on_nan=True, report=output.append)
    )
    watch = guards.Guard(kept, recorded, training.Options())
    for each in (watch, patient):
        each.doing("train", 4)
        each.mini_batch_ended([EXAMPLE, EXAMPLE])
    assert output == []
    recorded.figures.append((event, value, 3))
    with pytest.raises(errors.RunStopped) as stopped:
        watch.mini_batch_ended([EXAMPLE, EXAMPLE])
    begins = f"{what} is not finite in global step 5, optimizer step 3"
    assert str(stopped.value).startswith(f"{begins}: the batch is in {kept.out}")
    assert "--resume --continue-on-nan" in str(stopped.value)
    with np.load(kept.out / "not_finite" / "step-3.npz") as batch:
        assert batch["advantages"].tolist() == [0.0, 1.0, 0.0, 1.0]
    patient.mini_batch_ended([EXAMPLE, EXAMPLE])
    assert output == [f"{begins}; going on"]


def test_figures_that_are_not_finite_are_null_in_the_result(finished_run):
    rows = [{"step": 1, "policy_loss": float("nan"), "value_loss": 0.5}]
    result = dataclasses.replace(finished_run.result, steps=rows)
    assert result.to_dict()["steps"] == [{"step": 1, "policy_loss": None, "value_loss": 0.5}]


def test_stages_keep_everything(finished_run):
    found = finished_run.result.baseline
    again = type(found).kept(json.loads(json.dumps(found.to_saved())))
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


def test_weights_that_are_not_those_the_run_began_with_are_refused(all_but_finished, capsys):
    out = all_but_finished
    (kept,) = out.rglob("policy.json")
    began = json.loads(kept.read_text())
    kept.write_text(json.dumps({**began, "sha256": "0" * 64}))
    assert refusal(capsys, "run", "--resume", "--out", out) == (
        f"the policy before PPO has checksum {began['sha256'][:12]}, the run in {out} began with "
        "000000000000: give the checkpoint and the libraries that it began with, or begin anew"
    )
