"""A plan: its arithmetic with a made-up compiler, its command, and one program compiled."""

import dataclasses
import importlib.metadata
import json
import pathlib
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from harness import cli, hardware, upstream
from harness import recipe as recipe_lib
from harness.artifacts.plan import Plan
from harness.plan import (
    compiler,
    picture,
    planner,
    planning,
    regression,
    resident,
    shapes,
    sizes,
    store,
)
from harness.programs import ALWAYS
from harness.upstream.instrument import programs
from harness.upstream.instrument import resident as resident_lib
from tests.conftest import small_recipe
from tests.support.plans import abstract

GIB = 2**30


def has_compiler() -> bool:
    try:
        return bool(importlib.metadata.version("libtpu"))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def planned() -> Any:
    return abstract(small_recipe(), "patched")


class Judge:
    """Answers as a compiler might for which a sequence takes so many bytes."""

    workers = 1
    host_bytes = 0

    def __init__(self, learner: Any, slice_: hardware.Slice, slope: int):
        self.slice, self.asked = slice_, []
        self._learner, self._slope = learner, slope

    def ask(self, job: store.Job) -> tuple[dict[str, Any], bool]:
        return resident.describe(
            self._learner, job.sequences, job.recipe.batching.mini_batch_size
        ), False

    def figures(self, job: store.Job) -> tuple[store.Figures, bool]:
        self.asked.append((job.program, job.sequences))
        given = programs.arguments_of(job.program)
        size = sum(
            each.bytes for each in resident_lib.resident(self._learner) if each.name in given
        )
        size += 4096  # inputs and cache
        if size + self._slope * job.sequences > self.slice.chip.hbm_bytes:
            needed = size + self._slope * job.sequences
            refused = store.Refusal(needed, self.slice.chip.hbm_bytes, "too large")
            return store.Figures(refused=refused), False
        return store.Figures(argument_bytes=size, temp_bytes=self._slope * job.sequences), False

    def __exit__(self, *error: object) -> None:
        pass


def make_plan(planned: Any, hbm: int, slope: int, **options: Any) -> dict[str, Any]:
    slice_ = dataclasses.replace(
        hardware.find_slice("v6e-1"), chip=dataclasses.replace(hardware.V6E, hbm_bytes=hbm)
    )
    judge: Any = Judge(planned, slice_, slope)
    return planning.make(planner.Planner(small_recipe(), "patched", judge), **options)


def test_a_phase_is_its_program_and_all_that_lives_beside_it(planned):
    plan = make_plan(planned, 10**7, 1000)
    assert [each["name"] for each in plan["programs"]] == list(ALWAYS)
    assert [each["name"] for each in plan["phases"]] == [
        *("rollout", "old log-probs", "values", "actor step", "critic step")
    ]
    lives = sum(
        each["bytes"] for each in plan["resident"] if not each["pinned"] and "phase" not in each
    )
    for phase in plan["phases"]:
        assert phase["peak_bytes"] == lives + 4096 + 4000, phase["name"]
        assert sum(part["bytes"] for part in phase["parts"]) == phase["peak_bytes"]
    assert plan["fits"]


def test_a_program_that_fits_alone_may_not_fit_beside_the_rest(planned):
    plan = make_plan(planned, 800_000, 20_000, names=["logps"])
    (program,), (phase,) = plan["programs"], plan["phases"]
    assert program["fits"]
    assert not phase["fits"]
    assert phase["headroom_bytes"] < 0
    assert not plan["fits"]


def test_a_sweep_finds_the_largest_micro_batches_and_sizes(planned):
    plan = make_plan(planned, 2_000_000, 50_000, sweep=True)
    for each in plan["largest_micro_batches"]:
        given = programs.arguments_of(each["programs"][0])
        size = sum(one.bytes for one in resident_lib.resident(planned) if one.name in given) + 4096
        assert each["compiles"] == (2_000_000 - size) // 50_000
        assert each["refused"] == each["compiles"] + 1
        assert each["refusal"]["needed_bytes"] > 2_000_000
    sizes = {each["setting"]: each["recommended"] for each in plan["recommendation"]["settings"]}
    # All of the mini-batch fits, and a larger call reads the weights less often.
    assert sizes == dict.fromkeys(sizes, 8)
    assert plan["recommendation"]["nothing_fits"] == []


def test_a_sweep_that_no_size_satisfies_says_so(planned):
    plan = make_plan(planned, 100_000, 10**6, sweep=True)
    assert not plan["fits"]
    assert [each["compiles"] for each in plan["largest_micro_batches"]] == [0] * 5
    assert [each["refused"] for each in plan["largest_micro_batches"]] == [1] * 5
    assert len(plan["recommendation"]["nothing_fits"]) == 3
    assert all(each["refused"]["message"] == "too large" for each in plan["programs"])


def test_a_sweep_of_stock_tunix_says_what_sizes_change():
    assert sizes.changes_of_sizes(upstream.choose_fixes("patched")) == []
    assert len(sizes.changes_of_sizes(())) == 2


def test_stock_tunix_values_the_whole_group_at_once():
    recipe = recipe_lib.load("gemma3-1b", assignments=["batching.rollout_micro_batch_size=8"])
    assert shapes.sequences(recipe, "values", ()) == 8
    assert shapes.sequences(recipe, "values", ("values-not-micro-batched",)) == 4


def test_a_changed_byte_is_a_regression_only_for_equal_versions(planned):
    old = regression.committed(make_plan(planned, 10**7, 1000))
    new = json.loads(json.dumps(old))
    assert regression.verdict(old, new) == (True, ["every byte as committed"])
    new["programs"][2]["temp_bytes"] += 1
    good, output = regression.verdict(old, new)
    assert not good
    assert any("temp_bytes 4,000 became 4,001" in line for line in output)
    new["versions"] = {**new["versions"], "jax": "0.0.1"}
    good, output = regression.verdict(old, new)
    assert good
    assert "jax" in output[0]
    assert any("became 4,001" in line for line in output)


def test_the_picture_shows_every_phase_and_the_limit(planned):
    plan = make_plan(planned, 10**7, 1000)
    drawn = ElementTree.fromstring(picture.draw(Plan.model_validate(plan)))
    words = {element.text for element in drawn.iter() if element.tag.endswith("text")}
    assert {phase["name"] for phase in plan["phases"]} <= words
    assert f"limit {10**7 / GIB:.2f} GiB" in words
    assert picture.draw(Plan.model_validate(plan)) == picture.draw(Plan.model_validate(plan))


def test_the_picture_shows_a_phase_that_the_compiler_refused(planned):
    plan = make_plan(planned, 10**7, 1000)
    plan["phases"][0] |= {"peak_bytes": None, "fits": False, "parts": []}
    words = {
        element.text
        for element in ElementTree.fromstring(picture.draw(Plan.model_validate(plan))).iter()
    }
    assert "refused" in words


# The command.


def run(monkeypatch: Any, capsys: Any, *arguments: str) -> tuple[int, str]:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", *arguments])
    return int(ended.value.code or 0), capsys.readouterr().err


def test_without_the_compiler_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(store, "versions", lambda: {"libtpu": None})
    code, output = run(monkeypatch, capsys)
    assert code == 2
    assert "tunix-ppo-harness[tpu-compiler]" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--chip", "v7x-1"), ("unknown chip 'v7x-1'", *hardware.SLICES)),
        (("--program", "train"), ("unknown program 'train'", *ALWAYS)),
        (("--chip", "v6e-4"), ("4 chip(s)", "sharding.fsdp")),
        (("--set", "sharding.fsdp=2"), ("1 chip(s)", "sharding.fsdp")),
        (("--micro-batch", "0"), ("--micro-batch",)),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(monkeypatch, capsys, arguments, words):
    code, output = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert output.count("\n") == 1
    assert all(word in output for word in words)


# One program, compiled for a TPU.


@pytest.mark.skipif(not has_compiler(), reason="libtpu is not installed (extra tpu-compiler)")
def test_a_small_program_is_compiled_for_a_tpu_once(tmp_path, monkeypatch):
    """Two layers of the real widths; a lock file that another process left is there."""
    recipe = recipe_lib.load(
        "gemma3-1b",
        assignments=[
            "model.num_layers=2",
            "model.attention_pattern=['local', 'global']",
            "model.vocab_size=1024",
            "rollout.max_prompt_length=128",
            "rollout.max_new_tokens=128",
            "rollout.cache_size=256",
        ],
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "libtpu_lockfile").write_text("")
    answers = store.Store(tmp_path / "plan")
    slice_ = hardware.find_slice("v6e-1")
    for cached in (False, True):
        with compiler.Compiler(slice_, answers, workers=1) as compiling:
            asking = planner.Planner(recipe, "patched", compiling)
            plan = planning.make(asking, names=["logps"])
        (program,) = plan["programs"]
        assert program["cached"] is cached
        given = sum(
            each["bytes"]
            for each in plan["resident"]
            if each["name"] in programs.arguments_of("logps")
        )
        # Arguments are laid out in tiles; norms and LoRA factors gain a little.
        assert given <= program["argument_bytes"] <= 1.1 * given
        assert program["temp_bytes"] > 0
        assert program["least_flops"] <= program["flops"] <= 1.15 * program["least_flops"]
        assert plan["fits"]
    assert pathlib.Path(tmp_path / "libtpu_lockfile").exists()
