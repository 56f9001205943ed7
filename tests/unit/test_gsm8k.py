"""GSM8K from files and from TFDS, prepared once, and the cache."""

import pathlib
import shutil
import socket
import subprocess
import sys

import pytest

from harness import cache, data
from harness import recipe as recipes
from harness.data import gsm8k
from harness.data.problem import Problem
from harness.errors import HarnessError
from tests.conftest import GSM8K
from tests.support.data import BUILTIN, hats, make_problem, prompts_of, sampler_length, write_jsonl


@pytest.fixture
def source(tmp_path) -> str:
    return hats(tmp_path / "local")


_ROWS = {
    split: len((GSM8K / f"{split}.jsonl").read_text(encoding="utf-8").splitlines())
    for split in gsm8k.SPLITS
}


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch) -> pathlib.Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(folder))
    return folder


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("PPO_HARNESS_CACHE", "~/somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / "somewhere"


@pytest.mark.parametrize("value", [None, ""])
def test_the_cache_has_a_place_of_its_own(monkeypatch, tmp_path, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is None:
        monkeypatch.delenv("PPO_HARNESS_CACHE")
    else:
        monkeypatch.setenv("PPO_HARNESS_CACHE", value)
    assert cache.cache_root() == tmp_path / ".cache" / "tunix-ppo-harness"


# GSM8K. So few batches that the excerpt has problems enough.
_FEW = (
    "data.num_batches=1",
    "batching.rollout_batch_size=8",
    "batching.mini_batch_size=8",
    "batching.train_micro_batch_size=8",
    "batching.rollout_micro_batch_size=8",
    "batching.compute_logps_micro_batch_size=8",
)


def test_local_files_become_array_record_with_every_row(source, cache_dir):
    rows = gsm8k.prepare(source, cache_dir)
    assert sorted(rows["train"]) == sorted(make_problem(n) for n in range(43))
    assert sorted(rows["test"]) == sorted(make_problem(n) for n in range(50, 61))
    assert [rows["train"][i] for i in range(43)] == list(rows["train"])
    files = sorted(path.name for path in cache_dir.rglob("*array_record*"))
    assert files == [
        "gsm8k-test.array_record-00000-of-00001",
        "gsm8k-train.array_record-00000-of-00001",
    ]


def test_what_is_prepared_is_not_prepared_again(source, cache_dir, monkeypatch):
    first = list(gsm8k.prepare(source, cache_dir)["train"])

    def again(*_):
        raise AssertionError("prepared a second time")

    monkeypatch.setattr(gsm8k, "_prepare_problems", again)
    assert list(gsm8k.prepare(source, cache_dir)["train"]) == first


def test_changed_files_are_prepared_anew(source, cache_dir):
    gsm8k.prepare(source, cache_dir)
    folder = pathlib.Path(source.removeprefix("jsonl:"))
    write_jsonl(folder, [make_problem(99)], [make_problem(98)])
    assert list(gsm8k.prepare(source, cache_dir)["train"]) == [make_problem(99)]


def test_unusual_text_survives(tmp_path, cache_dir):
    odd = Problem("Ünïcödé 🙂 a\u2028b\r\nc {d} <end_of_turn> #### 3", "First #### \n#### 4")
    folder = write_jsonl(tmp_path / "odd", [odd], [make_problem(1)])
    assert list(gsm8k.prepare(folder, cache_dir)["train"]) == [odd]


_DIES = """
import os, sys, pathlib
from harness.data import gsm8k
from harness.data.problem import Problem

class Dies(list):
    def __iter__(self):
        yield self[0]
        os._exit(9)

parse = gsm8k._parse
gsm8k._parse = lambda path, content: Dies(parse(path, content))
gsm8k.prepare(sys.argv[1], pathlib.Path(sys.argv[2]))
"""


def test_a_preparation_that_died_is_not_taken_for_a_finished_one(source, cache_dir):
    died = subprocess.run(
        [sys.executable, "-c", _DIES, source, str(cache_dir)], capture_output=True, check=False
    )
    assert died.returncode == 9, died.stderr.decode()
    assert list(cache_dir.rglob("*"))
    rows = gsm8k.prepare(source, cache_dir)
    assert sorted(rows["train"]) == sorted(make_problem(n) for n in range(43))


def test_preparing_leaves_nothing_beside_the_result(source, cache_dir, capfd):
    gsm8k.prepare(source, cache_dir)
    (prepared,) = (cache_dir / "gsm8k").iterdir()
    assert sorted(path.name for path in prepared.rglob("*") if path.is_dir()) == ["1.0.0", "gsm8k"]
    assert capfd.readouterr().out == ""


def test_a_damaged_cache_is_named(source, cache_dir):
    gsm8k.prepare(source, cache_dir)
    for path in cache_dir.rglob("*train.array_record*"):
        path.write_bytes(b"")
    with pytest.raises(HarnessError, match=r"cannot be read .*: delete that folder"):
        gsm8k.prepare(source, cache_dir)


def test_a_cache_that_cannot_be_written_is_refused(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match=r"file/gsm8k cannot be written .* PPO_HARNESS_CACHE"):
        gsm8k.prepare(source, tmp_path / "file")


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_file_is_named(source, cache_dir, missing):
    (pathlib.Path(source.removeprefix("jsonl:")) / f"{missing}.jsonl").unlink()
    with pytest.raises(HarnessError, match=rf"{missing}\.jsonl cannot be read \(No such file"):
        gsm8k.prepare(source, cache_dir)
    assert not cache_dir.exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b'["question", "answer"]', "not a JSON object"),
        (b'{"answer": "#### 1"}', "no text 'question'"),
        (b'{"question": "Q", "answer": 1}', "no text 'answer'"),
        (b'{"question": "Q", "answer": "1"}', "no number after '#### '"),
        (b'{"question": "\\ud800", "answer": "#### 1"}', "'question' is not valid Unicode"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_prepared(source, cache_dir, line, reason):
    path = pathlib.Path(source.removeprefix("jsonl:")) / "test.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(HarnessError, match=rf"test\.jsonl, line 3: {reason}"):
        gsm8k.prepare(source, cache_dir)
    assert not cache_dir.exists()


def test_an_empty_file_is_refused(source, cache_dir):
    (pathlib.Path(source.removeprefix("jsonl:")) / "train.jsonl").write_bytes(b"")
    with pytest.raises(HarnessError, match=r"train\.jsonl is empty"):
        gsm8k.prepare(source, cache_dir)


def test_a_prepared_tfds_folder_is_read(source, cache_dir, tmp_path):
    rows = list(gsm8k.prepare(source, cache_dir)["train"])
    (prepared,) = (cache_dir / "gsm8k").iterdir()
    shutil.copytree(prepared, tmp_path / "theirs")
    # What an interrupted TFDS leaves is not a dataset.
    (tmp_path / "theirs" / "gsm8k" / "incomplete.AAAAAA_1.0.0").mkdir()
    assert list(gsm8k.prepare(f"tfds:{tmp_path}/theirs", cache_dir)["train"]) == rows


@pytest.fixture
def no_network(monkeypatch):
    """Send every download to a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{free.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("folder", ["", "own"])
def test_without_a_network_the_remedy_is_named_and_nothing_is_left(cache_dir, tmp_path, folder):
    source = f"tfds:{tmp_path / folder}" if folder else "tfds"
    with pytest.raises(HarnessError, match=r"cannot be downloaded .* jsonl:DIR"):
        gsm8k.prepare(source, cache_dir)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory) -> pathlib.Path:
    """Where the real GSM8K is prepared, once for all tests."""
    return tmp_path_factory.mktemp("real")


def test_the_real_gsm8k_is_whole(real_cache, monkeypatch):
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(real_cache))
    recipe = recipes.load(
        "tiny",
        source=f"jsonl:{GSM8K}",
        assignments=[
            *("rollout.max_prompt_length=1024", "rollout.cache_size=2048"),
            *_FEW,
        ],
    )
    dataset = data.load(recipe, BUILTIN)
    assert dataset.problems == _ROWS
    assert dataset.long_prompts == {"train": 0, "test": 0}
    assert len(list(real_cache.rglob("*.array_record-*"))) == 2


def test_most_of_gsm8k_fits_the_tiny_preset(real_cache, monkeypatch):
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(real_cache))
    recipe = recipes.load(
        "tiny",
        source=f"jsonl:{GSM8K}",
        assignments=_FEW,
    )
    dataset = data.load(recipe, BUILTIN)
    for split, rows in _ROWS.items():
        assert dataset.problems[split] + dataset.long_prompts[split] == rows
        assert dataset.problems[split] > rows / 2
    assert all(
        sampler_length(text) <= recipe.rollout.max_prompt_length
        for text in prompts_of([*dataset.train, *dataset.test])
    )
