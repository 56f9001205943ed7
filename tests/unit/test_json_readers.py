"""What reads JSON refuses a file that it cannot use in one sentence, with exit code 2."""

import json
import pathlib
import shutil

import pytest

from benchmarks import gate_study
from harness import cli, crash
from harness.gate import command
from harness.plan import picture, recommendations, regression
from tests.support import report_samples as samples

# What a file holds instead of what is asked for.
UNUSABLE = {
    "empty": "",
    "an empty object": "{}",
    "an empty list": "[]",
    "null": "null",
    "truncated": '{"schema": "tunix-ppo-harness/',
    "binary": "\x00\x01\udc80\udcff",
    "nested without end": "[" * 100_000,
    "somebody else's schema": '{"schema": "else/1"}',
    "a schema that is no text": '{"schema": {"a": [1]}}',
    "another schema": '{"schema": "tunix-ppo-harness/progress/2"}',
    "an older schema": '{"schema": "tunix-ppo-harness/%s/0"}',
    "a check without a schema": '{"mode": "stock", "properties": [], "defects": []}',
    "a part is missing": '{"schema": "tunix-ppo-harness/%s"}',
}
# The schema that each reader asks for, and the reader, given such a file.
READERS = {
    "report": (
        "result/2",
        lambda file: cli.run_command(["report", str(file), "--out", "page.html"]),
    ),
    "gate, a baseline": (
        "baseline/1",
        lambda file: cli.run_command(["gate", str(file), "good.json"]),
    ),
    "gate, a candidate": ("plan/2", lambda file: cli.run_command(["gate", "good.json", str(file)])),
    "gate, one file": (
        "plan/2",
        lambda file: cli.run_command(["gate", str(file), "--baselines=."]),
    ),
    "gate, runs": ("result/2", lambda file: cli.run_command(["gate", "--learning", str(file)])),
    "gate, stored baseline": ("baseline/1", lambda file: stored_baseline(file)),
    "gate, stored reference": ("learning/1", lambda file: stored_reference(file)),
    "gate study": ("gate-study/1", lambda file: gate_study.main(["report", str(file)])),
    "picture": ("plan/2", lambda file: picture.main([str(file), "plan.svg"])),
    "regression, committed": ("plan/2", lambda file: regression.main([str(file), "good.json"])),
    "regression, new": ("plan/2", lambda file: regression.main(["good.json", str(file)])),
    "recommendations": ("plan/2", lambda file: recommendations.main(["page.md", str(file)])),
}


def stored_baseline(file: pathlib.Path) -> None:
    shutil.copy(file, "plan-gemma3-1b-v6e-1.json")
    command.run(command.Request([pathlib.Path("good.json")], baselines=pathlib.Path()))


def stored_reference(file: pathlib.Path) -> None:
    shutil.copy(file, "learning-tiny.json")
    pathlib.Path("result.json").write_text(json.dumps(samples.run()))
    command.run(command.Request(learning=[pathlib.Path("result.json")], baselines=pathlib.Path()))


@pytest.mark.parametrize("text", UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize(("schema", "read"), READERS.values(), ids=READERS)
def test_an_unusable_file_is_refused_in_one_line(schema, read, text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples.write(tmp_path, good=samples.plan())
    name, _, _ = schema.partition("/")
    text = text.replace("%s/0", f"{name}/0").replace("%s", schema)
    file = tmp_path / "file.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert crash.exit_code(lambda: read(file)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert ".json" in err


@pytest.mark.parametrize(("schema", "read"), READERS.values(), ids=READERS)
def test_a_missing_file_and_a_folder_are_refused_in_one_line(
    schema, read, tmp_path, capsys, monkeypatch
):
    del schema
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    samples.write(tmp_path, good=samples.plan())
    for name in ("none.json", "folder"):
        if read in (READERS["gate, stored baseline"][1], READERS["gate, stored reference"][1]):
            continue  # they are found by name
        assert crash.exit_code(lambda name=name: read(tmp_path / name)) == 2
        assert capsys.readouterr().err.count("\n") == 1
