"""What the doctor finds, and what it must never tell."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import pytest
from packaging.requirements import Requirement

from harness import doctor, recipe
from harness.data import gsm8k

SENTINEL = "s3cr3t-sentinel"
KAGGLE = ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR")


@pytest.fixture(autouse=True)
def bare_home(tmp_path, monkeypatch):
    """A home without credentials or data."""
    for name in (*KAGGLE, "PPO_HARNESS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def check(name: str, of: recipe.Recipe | None = None) -> doctor.Check:
    (found,) = [each for each in doctor.examine(of).checks if each.name == name]
    return found


TINY = recipe.load("tiny")
GEMMA = recipe.load("gemma3-1b")


def test_what_is_here_is_ok():
    found = {each.name: each for each in doctor.examine().checks}
    assert found["python"].status == "ok"
    assert found["devices"].status == "ok"
    assert jax.devices()[0].device_kind in found["devices"].detail
    assert found["memory"].status == "ok"


def test_a_report_without_anything_missing_is_ok_and_is_plain_json():
    report = doctor.examine(TINY)
    assert report.ok
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert [set(each) for each in plain["checks"]] == [{"name", "status", "detail"}] * len(
        report.checks
    )


def test_one_missing_thing_makes_the_report_not_ok():
    bad = doctor.Check("x", "missing", "not there")
    assert not doctor.Report((dataclasses.replace(bad, status="ok"), bad)).ok
    assert doctor.Report((dataclasses.replace(bad, status="warn"),)).ok


def test_defects_come_last_in_the_order_given():
    defects = [doctor.Check("b", "warn", "…"), doctor.Check("a", "ok", "…")]
    assert list(doctor.examine(defects=defects).checks[-2:]) == defects


@pytest.mark.parametrize(
    ("requirement", "status"),
    [
        ("jax>=0.1", "ok"),
        ("jax", "ok"),
        ("jax<0.1", "warn"),
        ("no-such-distribution>=1", "missing"),
    ],
)
def test_a_package_is_held_against_its_range(requirement, status):
    found = doctor.package(Requirement(requirement))
    assert found.status == status
    assert found.name == Requirement(requirement).name


def test_an_unreleased_version_inside_the_range_is_ok(monkeypatch, tmp_path):
    metadata = tmp_path / "somewhere-0.2.0.dev3.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: somewhere\nVersion: 0.2.0.dev3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.package(Requirement("somewhere>=0.1")).status == "ok"


def test_the_harness_s_own_requirements_are_looked_at(monkeypatch, tmp_path):
    metadata = tmp_path / "tunix_ppo_harness-9.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        "Metadata-Version: 2.1\nName: tunix-ppo-harness\nVersion: 9\n"
        "Requires-Dist: jax<0.1\n"
        "Requires-Dist: no-such-distribution\n"
        'Requires-Dist: only-of-an-extra; extra == "report"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = {each.name: each.status for each in doctor.examine().checks}
    assert found["jax"] == "warn"
    assert found["no-such-distribution"] == "missing"
    assert "only-of-an-extra" not in found


@pytest.mark.parametrize(
    "environment",
    [
        {"KAGGLE_API_TOKEN": SENTINEL},
        {"KAGGLE_USERNAME": SENTINEL, "KAGGLE_KEY": SENTINEL},
    ],
)
def test_credentials_in_the_environment_are_found_and_never_printed(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    report = doctor.examine(GEMMA)
    assert SENTINEL not in json.dumps(report.to_dict())
    assert SENTINEL not in repr(report)
    found = check("kaggle credentials", GEMMA)
    assert found.status == "ok"
    assert all(name in found.detail for name in environment)


@pytest.mark.parametrize("name", ["kaggle.json", "access_token", "access_token.txt"])
def test_credentials_in_a_file_are_found_and_never_printed(name, bare_home):
    (bare_home / ".kaggle").mkdir()
    (bare_home / ".kaggle" / name).write_text(json.dumps({"username": "u", "key": SENTINEL}))
    assert check("kaggle credentials", GEMMA).status == "ok"
    assert SENTINEL not in json.dumps(doctor.examine(GEMMA).to_dict())


def test_credentials_in_a_folder_of_the_user_s_choice_are_found(tmp_path, monkeypatch):
    (tmp_path / "kaggle.json").write_text("{}")
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    assert check("kaggle credentials").status == "ok"


@pytest.mark.parametrize(
    "environment",
    [{}, {"KAGGLE_USERNAME": "u"}, {"KAGGLE_KEY": "k"}, {"KAGGLE_API_TOKEN": ""}],
)
def test_absent_credentials_are_missing_only_where_weights_must_be_downloaded(
    environment, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with_weights = recipe.replace(GEMMA, "model.checkpoint='/somewhere'")
    assert check("kaggle credentials", GEMMA).status == "missing"
    assert not doctor.examine(GEMMA).ok
    assert check("kaggle credentials", with_weights).status == "warn"
    assert check("kaggle credentials", TINY).status == "warn"
    assert check("kaggle credentials").status == "warn"


def test_the_built_in_problems_need_no_data():
    assert check("data", TINY).status == "ok"


def test_the_data_found_is_the_data_that_a_run_reads(tmp_path, monkeypatch):
    source, cache = tmp_path / "source", tmp_path / "cache"
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(cache))
    source.mkdir()
    for split in gsm8k.SPLITS:
        (source / f"{split}.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    gsm8k.prepare(f"jsonl:{source}", cache)
    (prepared,) = (cache / "gsm8k").glob("jsonl-*")

    assert check("data", GEMMA).status == "warn"
    assert check("data").status == "warn"
    in_a_folder = recipe.load("tiny", source=f"tfds:{prepared}")
    assert check("data", in_a_folder).status == "ok"
    assert len(gsm8k.prepare(in_a_folder.data.source, cache)["test"]) == 1

    prepared.rename(cache / "gsm8k" / "tfds")
    assert check("data", GEMMA).status == "ok"
    assert check("data").status == "ok"
    assert len(gsm8k.prepare(GEMMA.data.source, cache)["test"]) == 1


def test_a_remote_folder_is_not_looked_at():
    found = check("data", recipe.load("tiny", source="jsonl:gs://bucket/gsm8k"))
    assert found.status == "warn"
    assert "gs://bucket/gsm8k" in found.detail


def test_a_folder_of_jsonl_needs_both_splits(tmp_path):
    asked = recipe.load("tiny", source=f"jsonl:{tmp_path}")
    (tmp_path / "train.jsonl").write_text("{}\n")
    assert check("data", asked).status == "missing"
    (tmp_path / "test.jsonl").write_text("{}\n")
    assert check("data", asked).status == "ok"


def test_more_devices_than_there_are_is_missing():
    count = 2 * jax.device_count()
    asked = recipe.replace(TINY, f"sharding.fsdp={count}")
    assert check("devices", asked).status == "missing"
    assert str(count) in check("devices", asked).detail


def _in_a_new_process(program: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_trainer_is_not_imported():
    program = (
        "import sys; from harness import doctor; doctor.examine(); "
        "print([name for name in sys.modules if name.split('.')[0] == 'tunix'])"
    )
    assert _in_a_new_process(program).strip() == "[]"


def test_a_backend_that_is_not_there_is_reported_without_a_traceback():
    program = (
        "import json; from harness import doctor; print(json.dumps(doctor.examine().to_dict()))"
    )
    printed = json.loads(_in_a_new_process(program, JAX_PLATFORMS="no_such_backend"))
    found = {each["name"]: each for each in printed["checks"]}
    assert found["devices"]["status"] == "missing"
    assert "no_such_backend" in found["devices"]["detail"]
    assert found["memory"]["status"] == "warn"
    assert found["memory"]["detail"].startswith("host: ")
