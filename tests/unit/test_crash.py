"""Exit code 1 means no: what was not foreseen ends with 70, one line, and a file to report."""

import json
import os
import pathlib
import signal
import stat
import subprocess
import sys

import click
import pytest

from harness import cli, crash, e2e, errors, hardware, upstream
from harness import recipe as recipe_lib
from harness.plan import regression, store, worker
from tests.support import report_samples
from tests.support.cli import ROOT, call

SECRET = "sesame-4711"


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(tmp_path / "cache"))


def reports(tmp_path: pathlib.Path) -> list[pathlib.Path]:
    return sorted((tmp_path / "cache" / "crashes").glob("*"))


def ended(main, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    code = crash.exit_code(main)
    out, err = capsys.readouterr()
    assert out == ""
    return code, err


def failing(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize("command", sorted(cli.cli.commands))
def test_every_command_ends_with_70_where_something_unforeseen_happens(
    command, capsys, tmp_path, monkeypatch
):
    def crashing(**_: object) -> None:
        raise ZeroDivisionError("of all\nthings")

    monkeypatch.setattr(cli.cli.commands[command], "callback", crashing)
    arguments = {
        "run": ["--out", "x"],
        "e2e": ["--out", "x"],
        "report": ["x", "--out", "y"],
        "make-tokenizer": ["x"],
        "make-log-probs": ["x"],
        "rehearse": ["--out", "x"],
    }
    code, out, err = call(capsys, command, *arguments.get(command, []))
    (file,) = reports(tmp_path)
    assert (code, out) == (70, "")
    assert err == (
        "error: this was not foreseen (ZeroDivisionError: of all things): please report it with "
        f"the traceback in {file}\n"
    )
    text = file.read_text()
    assert text.count("Traceback (most recent call last)") == 1
    assert 'raise ZeroDivisionError("of all\\nthings")' in text
    assert "google-tunix: " in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("error", "code", "output"),
    [
        (errors.HarnessError("no such\n  thing"), 2, "error: no such thing\n"),
        (errors.Terminated("stopped"), 143, "error: stopped\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_is_foreseen_has_its_own_code_and_no_report(error, code, output, capsys, tmp_path):
    assert ended(failing(error), capsys) == (code, output)
    assert reports(tmp_path) == []


def test_answers_are_handed_on(capsys):
    assert [ended(lambda code=code: code, capsys)[0] for code in (None, 0, 1, 2)] == [0, 0, 1, 2]


@pytest.mark.parametrize("error", [click.Abort(), KeyboardInterrupt()])
def test_an_interrupted_command_ends_with_130(error, capsys, monkeypatch):
    monkeypatch.setattr(cli.cli.commands["account"], "callback", lambda **_: failing(error)())
    code, out, err = call(capsys, "account")
    assert (code, out, err.strip()) == (130, "", "interrupted")


def test_an_interrupt_that_becomes_another_error_is_still_one(capsys, tmp_path):
    """As where it comes while a library's extension is being loaded."""
    # A process that a shell started in the background ignores interrupts.
    before = signal.default_int_handler
    outside = signal.signal(signal.SIGINT, before)

    def main() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("while initializing the extension") from None

    try:
        assert ended(main, capsys) == (130, "interrupted\n")
        assert reports(tmp_path) == []
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, outside)


@pytest.mark.parametrize("code", [0, 1, None])
def test_code_that_ends_the_program_by_itself_gives_no_answer(code, capsys, tmp_path):
    """Such as a reward of the user's that calls `sys.exit`."""
    assert ended(failing(SystemExit(code)), capsys)[0] == 70
    assert len(reports(tmp_path)) == 1


def test_an_output_that_is_closed_is_no_answer_either(capsys, tmp_path):
    def as_rich_does() -> None:
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904

    assert ended(as_rich_does, capsys) == (141, "")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "harness", "recipe"]
    gone = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert (gone.returncode, gone.stderr) == (141, "")
    # A pipe to another process, that broke, is a fault like any other.
    assert ended(failing(BrokenPipeError()), capsys)[0] == 70
    assert len(reports(tmp_path)) == 1


def test_no_credential_is_in_the_line_or_the_report(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("MY_API_TOKEN", SECRET)
    (tmp_path / "kaggle.json").write_text(json.dumps({"username": "ali", "key": "open-0815"}))
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "access_token").write_text("by-file-1234\n")
    (tmp_path / ".netrc").write_text("machine api.example login user password net-5678\n")
    monkeypatch.setattr(sys, "argv", ["ppo-harness", "run", f"--data=tfds:{SECRET}"])
    hidden = [
        SECRET,
        "open-0815",
        "by-file-1234",
        "net-5678",
        "YWxpOnNlc2FtZQ==",
        "eyJhbGciOi",
        "pass-word",
        "abc-signature",
    ]
    local = "a value of a variable"

    def main() -> None:
        secret = local  # it stands in a frame that the traceback shows
        cause = RuntimeError(
            f"{hidden[1]} {hidden[2]} {hidden[3]} Basic {hidden[4]} {{'Authorization': "
            f"'Bearer {hidden[5]}'}} https://ali:{hidden[6]}@host/x?X-Goog-Signature={hidden[7]}&a=1"
        )
        cause.add_note(f"note {SECRET}")
        assert secret
        raise ValueError(f"key {SECRET} is wrong") from cause

    code, err = ended(main, capsys)
    text = reports(tmp_path)[0].read_text()
    assert code == 70
    for each in hidden:
        assert each not in err + text
    assert "key <MY_API_TOKEN> is wrong" in err
    assert "https://...@host/x?X-Goog-Signature=...&a=1" in text
    assert local not in text
    assert "RuntimeError" in text


def test_a_report_that_cannot_be_written_into_the_cache_goes_elsewhere(
    capsys, tmp_path, monkeypatch
):
    (tmp_path / "cache").write_text("a file, where a folder should be")
    monkeypatch.setattr(crash.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    code, err = ended(failing(ValueError()), capsys)
    (file,) = (tmp_path / "temporary").iterdir()
    assert code == 70
    assert err.endswith(f"(ValueError): please report it with the traceback in {file}\n")
    monkeypatch.setattr(crash.tempfile, "gettempdir", lambda: str(tmp_path / "cache" / "none"))
    code, err = ended(failing(ValueError()), capsys)
    assert (code, err.count("\n")) == (70, 1)
    assert "please report it" in err


def python(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
    )


def test_a_package_that_is_broken_is_not_an_answer(tmp_path):
    """It is met before there is a command line."""
    (tmp_path / "click.py").write_text("raise ImportError('no click today')\n")
    found = python("-m", "harness", "account", PYTHONPATH=f"{tmp_path}:{ROOT}")
    (file,) = reports(tmp_path)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (70, "", 1)
    assert "(ImportError: no click today): please report it with the trace" in found.stderr
    assert "no click today" in file.read_text()


def test_the_tools_of_the_sessions_keep_to_the_codes(tmp_path):
    module = "harness.plan.picture"
    missing = str(tmp_path / "none.json")
    found = python("-m", module, missing, missing)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    found = python("-m", module)
    assert (found.returncode, found.stderr.splitlines()[0][:6]) == (2, "usage:")


def test_a_comparison_that_crashes_does_not_say_no(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(regression, "verdict", lambda *_: failing(KeyError("programs"))())
    file = report_samples.write(tmp_path, plan=report_samples.plan()) / "plan.json"
    assert ended(lambda: regression.main([str(file), str(file)]), capsys)[0] == 70


def test_argparse_keeps_its_own_codes(capsys):
    def parse(*arguments: str):
        parser = crash_parser()
        return lambda: (parser.parse_args(arguments), 0)[1]

    assert ended(parse("--fast"), capsys)[0] == 2
    assert crash.exit_code(parse("--help")) == 0


def crash_parser():
    import argparse

    return argparse.ArgumentParser(prog="tool")


class Compiling:
    """In the place of `worker.Worker`: what builds or compiles a program fails."""

    compiler_errors = (OverflowError,)

    def __init__(self, error: Exception):
        self._error = error

    def lower(self, job: store.Job) -> dict:
        raise self._error


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (errors.HarnessError("the mesh does not divide"), {"error": "the mesh does not divide"}),
        (OverflowError("INTERNAL: of XLA"), {"error": "OverflowError: INTERNAL: of XLA"}),
        (AttributeError("no such name"), {"crash": "AttributeError: no such name"}),
    ],
)
def test_a_compilers_process_tells_a_crash_from_an_answer(error, known, tmp_path):
    slice_ = hardware.find_slice("v6e-1")
    job = store.Job(recipe_lib.load("tiny"), upstream.STOCK, slice_.name, "prefill", 1)
    with (tmp_path / "answers").open("w+") as answers:
        request = json.dumps({"job": job.to_dict()})
        worker.serve(Compiling(error), iter([request]), answers)  # type: ignore[arg-type]
        answers.seek(0)
        answer = json.loads(answers.read())
    trace = answer.pop("traceback", "")
    assert answer == known
    assert ("AttributeError: no such name" in trace) == ("crash" in known)


def test_the_traceback_of_a_compilers_process_is_in_the_report(capsys, tmp_path):
    error = errors.CrashedElsewhere("at prefill: AttributeError: no such name", "its traceback")
    code, err = ended(failing(error), capsys)
    assert code == 70
    assert "AttributeError: no such name" in err
    assert reports(tmp_path)[0].read_text().endswith("its traceback")


def test_a_plan_that_crashes_is_not_one_that_does_not_fit(monkeypatch, tmp_path):
    (tmp_path / "click.py").write_text("raise ImportError('no click today')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setattr(e2e.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(
        errors.HarnessError, match="could not be found out: error: this was not fores"
    ):
        e2e.plan(recipe_lib.load("gemma3-1b"), "v6e-1", "patched")


SESSIONS = """
import pathlib
SOURCE = pathlib.Path({root!r}, "noxfile.py")
exec(compile(SOURCE.read_text(), str(SOURCE), "exec"))

@nox.session
def ends(session):
    run(session, "python", "-c", session.posargs[0])

@nox.session
def starts(session):
    run(session, "no-such-program")

class Installing:
    def install(self, *arguments):
        raise nox.command.CommandFailed("Returned code 1")

@nox.session
def installs(session):
    pip_install(Installing(), "nothing")
"""


@pytest.mark.parametrize(
    ("session", "program", "code"),
    [
        ("ends", "pass", 0),
        ("ends", "raise SystemExit(1)", 1),
        ("ends", "raise SystemExit(70)", 70),
        ("ends", "import os; os.kill(os.getpid(), 9)", 137),
        ("starts", "", 2),
        ("installs", "", 2),
    ],
)
def test_sessions_hand_the_code_on(session, program, code, tmp_path):
    (tmp_path / "noxfile.py").write_text(SESSIONS.format(root=str(ROOT)))
    found = python(
        *("-m", "nox", "-f", str(tmp_path / "noxfile.py"), "--no-venv", "-s", session),
        *("--", program),
        PATH=f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
    )
    assert found.returncode == code, found.stderr


def test_every_session_runs_what_answers_by_its_code_through_run():
    """`session.run` itself would make 1 of any code."""
    lines = (ROOT / "noxfile.py").read_text().splitlines()
    direct = [line.strip() for line in lines if line.strip().startswith("session.run(")]
    assert direct == [
        "session.run(*command, **options)",
        'session.run("ruff", "check", ".")',
        'session.run("ruff", "format", "--check", ".")',
        'session.run("lint-imports")',
        'session.run("pyright")',
    ]
