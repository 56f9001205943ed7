"""Files that are there whole or not at all, and processes that talk in JSON lines."""

import os
import stat
import subprocess
import sys

import pytest

from harness import cache, files, jsonlines
from harness.errors import HarnessError


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"

    def fail() -> None:
        with files.replacing(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    files.write_whole(path, "all")
    assert path.read_text() == "all"
    assert list(tmp_path.iterdir()) == [path]


def test_two_may_write_one_file_at_once(tmp_path):
    path = tmp_path / "a.json"
    with files.replacing(path) as one, files.replacing(path) as other:
        one.write(b"one")
        other.write(b"other")
        assert len(list(tmp_path.glob(f".a.json.*{files.TEMPORARY}"))) == 2
        assert not path.exists()
    assert path.read_text() == "one"  # the later one stays
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_of_any_other(tmp_path):
    before = os.umask(0o022)
    try:
        files.write_whole(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


KILLED = """
import os, pathlib, signal
from harness import files
with files.replacing(pathlib.Path("a.json")) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_is_known_by_its_name(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path)
    (left,) = tmp_path.iterdir()
    assert left.suffix == files.TEMPORARY
    assert left.name.startswith(".")
    files.write_whole(tmp_path / "b.json", "mine")
    files.remove_temporaries(tmp_path)
    files.remove_temporaries(tmp_path / "none")
    assert [each.name for each in tmp_path.iterdir()] == ["b.json"]


def test_a_folder_of_the_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(HarnessError, match=r"file/a cannot be written .*: set PPO_HARNESS_CACHE"),
        cache.replacing(tmp_path / "file" / "a" / "b.npz"),
    ):
        pass


# JSON lines.

ANSWERS = """
import json, sys, time
from harness import jsonlines
answers = jsonlines.own_stdout()
print("a library's own line")
for line in sys.stdin:
    value = json.loads(line)
    if value == "die":
        sys.exit("last words")
    if value == "sleep":
        time.sleep(60)
    jsonlines.write(answers, {"got": value})
"""


@pytest.fixture
def child():
    made = jsonlines.Child([sys.executable, "-c", ANSWERS], env=dict(os.environ))
    yield made
    made.close()


def test_a_process_answers_line_by_line(child):
    for value in (1, "two", {"three": [3]}):
        assert child.ask(value) == {"got": value}


def test_a_process_that_ends_reports_how(child):
    with pytest.raises(jsonlines.Ended) as ended:
        child.ask("die")
    assert (ended.value.code, ended.value.silent) == (1, False)
    assert ended.value.output.splitlines() == ["a library's own line", "last words"]
    with pytest.raises(jsonlines.Ended):
        child.ask("anything")


def test_a_process_that_is_silent_is_ended(child):
    assert child.ask(1) == {"got": 1}
    with pytest.raises(jsonlines.Ended) as ended:
        child.ask("sleep", timeout=0.1)
    assert (ended.value.code, ended.value.silent) == (-9, True)


def test_a_process_may_end_by_itself_before_it_is_killed():
    made = jsonlines.Child([sys.executable, "-c", ANSWERS], env=dict(os.environ))
    made.ask(1)
    made.close(grace=30)
    assert made._process.returncode == 0
