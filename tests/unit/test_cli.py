import json
import pathlib
import subprocess
import sys
import tomllib

import pytest

from harness import recipe as recipe_lib
from tests.support.cli import ROOT, call

BAD = {
    "unknown preset": (["account", "--preset", "huge"], "unknown preset 'huge'"),
    "unknown field": (["account", "--set", "lora.size=3"], "lora.size: no such field"),
    "wrong value": (["account", "--set", "rollout.top_p=2"], "rollout.top_p"),
    "not an assignment": (["account", "--set", "lora"], "write group.field=value"),
    "missing recipe file": (["account", "--recipe", "/no/such.toml"], "/no/such.toml"),
    "missing data": (["run", "--data", "jsonl:/no/such", "--out", "{out}"], "/no/such"),
    "missing checkpoint": (["run", "--checkpoint", "/no/such", "--out", "{out}"], "/no/such"),
    "no checkpoint": (
        [
            *("run", "--force", "--preset", "gemma3-1b", "--set", "model.tokenizer=builtin"),
            *("--data", "arithmetic", "--out", "{out}"),
        ],
        "give --checkpoint PATH",
    ),
    "no checkpoint for the tokenizer": (
        ["run", "--force", "--preset", "gemma3-1b", "--data", "arithmetic", "--out", "{out}"],
        "model.checkpoint is not set",
    ),
    "no output folder": (["run"], "--out"),
    "unknown mode": (["run", "--upstream", "old", "--out", "{out}"], "--upstream"),
    "unknown command": (["fly"], "fly"),
    "wrong seed": (["account", "--seed", "-1"], "seed: Input should be greater"),
    "json that cannot be written": (["account", "--json", "/no/such/folder/a.json"], "a.json"),
    "tokenizer that exists": (["make-tokenizer", "{file}"], "{file}"),
}


@pytest.mark.parametrize(("arguments", "output"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line_and_exit_code_two(arguments, output, capsys, tmp_path):
    names = {"out": tmp_path / "out", "file": tmp_path / "file"}
    names["file"].write_text("mine")
    code, out, err = call(capsys, *[each.format(**names) for each in arguments])
    assert code == 2
    assert output.format(**names) in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert not names["out"].exists()
    assert names["file"].read_text() == "mine"


def test_account_prints_a_table_and_writes_json(capsys, tmp_path):
    file = tmp_path / "account.json"
    code, out, _ = call(capsys, "account", "--preset", "gemma3-1b", "--json", file)
    assert code == 0
    assert "stops-early" in out
    found = json.loads(file.read_text())
    assert (found["optimizer_steps"], found["global_steps"]) == (20, 5)
    assert {each["id"] for each in found["warnings"]} >= {"no-end-of-turn", "whitening-group"}


def test_the_recipe_is_printed_as_toml_that_can_be_given_back(capsys, tmp_path):
    _, out, _ = call(capsys, "recipe", "--preset", "tiny", "--set", "lora.rank=3", "--seed", 8)
    assert tomllib.loads(out)["lora"]["rank"] == 3
    file = tmp_path / "mine.toml"
    file.write_text(out)
    _, again, _ = call(capsys, "recipe", "--preset", "gemma3-1b", "--recipe", file)
    assert again == out
    assert recipe_lib.from_toml(again).seed == 8


def test_doctor_names_versions_and_defects_and_writes_json(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "sesame")
    monkeypatch.setenv("KAGGLE_USERNAME", "ali")
    file = tmp_path / "doctor.json"
    code, out, err = call(capsys, "doctor", "--json", file)
    assert code == 0
    text = file.read_text()
    for name in ("google-tunix", "defect reward-truncated", "defect noise-repeats"):
        assert name in text
    assert "sesame" not in out + err + text
    assert json.loads(text)["ok"] is True


def test_the_module_and_the_installed_command_are_one_program():
    for command in ([sys.executable, "-m", "harness"], [str(_installed())]):
        ended = subprocess.run(
            [*command, "account", "--preset", "nope"], capture_output=True, text=True, cwd=ROOT
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        presets = ", ".join(sorted(recipe_lib.PRESETS))
        assert ended.stderr == f"error: unknown preset 'nope': use one of {presets}\n"


def _installed() -> pathlib.Path:
    return pathlib.Path(sys.executable).with_name("ppo-harness")


def test_help_waits_for_no_library_that_computes():
    program = (
        "import sys\n"
        "from harness import cli, crash\n"
        "code = crash.exit_code(lambda: cli.run_command(['plan', '--help']))\n"
        "print(code, sorted({'jax', 'tunix', 'numpy', 'flax'} & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "0 []"


def test_the_small_tokenizer_is_made_by_the_command(capsys, tmp_path):
    file = tmp_path / "made.model"
    code, out, _ = call(capsys, "make-tokenizer", file)
    assert code == 0
    assert str(file) in out
    assert file.read_bytes() == (ROOT / "harness/assets/tiny_tokenizer.model").read_bytes()
