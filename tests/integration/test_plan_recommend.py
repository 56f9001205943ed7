"""The recommendation: the best that fits, and what it changes."""

import dataclasses
import itertools
import json
import pathlib
import re
import tomllib
from typing import Any

import pytest

from harness import cli, errors, hardware
from harness import recipe as recipe_lib
from harness.plan import (
    advice,
    bounds,
    changes,
    compiler,
    estimate,
    phases,
    planner,
    recommend,
    recommendations,
    settings,
    shapes,
    store,
)
from harness.programs import ALWAYS
from harness.upstream.instrument import programs
from tests.conftest import small_recipe

# Bytes of a made-up model; what is not named takes none.
LIVES = {
    "actor base": 4 * 10**9,
    "actor LoRA": 2 * 10**8,
    "critic": 4 * 10**9,
    "critic first moment": 4 * 10**9,
}

ACCUMULATOR = "critic gradient accumulator"

REMATS = (None, "light", "block", "decoder")

GIB = 2**30

NAMES = sorted({each for name in ALWAYS for each in programs.arguments_of(name)})

ROOT = pathlib.Path(__file__).parents[2]


class Chip:
    """Answers as a compiler that takes what arithmetic says, but for a few percent."""

    workers = 1
    host_bytes = 0
    not_passed_on = ()

    def __init__(self, gib: int, share: float = 0.95, chip: str = "v6e-1"):
        self.share = share
        found = hardware.find_slice(chip)
        self.slice = dataclasses.replace(
            found, chip=dataclasses.replace(found.chip, hbm_bytes=gib * GIB)
        )

    def ask(self, job: store.Job) -> tuple[dict[str, Any], bool]:
        assert job.program == "resident"
        half = 2 if job.recipe.model.dtype == "bfloat16" else 1
        accumulates = (
            job.recipe.batching.train_micro_batch_size < job.recipe.batching.mini_batch_size
        )
        lives = {**LIVES, ACCUMULATOR: LIVES["critic"] if accumulates else 0}
        resident = [
            {"name": name, "arrays": 1, "bytes": lives.get(name, 0) // half, "pinned": False}
            for name in NAMES
        ]
        cache = {
            "name": "key-value cache",
            "arrays": 0,
            "bytes": 10**8 * job.sequences,
            "pinned": False,
        }
        return {"resident": [*resident, {**cache, "phase": "rollout"}]}, False

    def figures(self, job: store.Job) -> tuple[store.Figures, bool]:
        resident = self.ask(dataclasses.replace(job, program="resident"))[0]["resident"]
        given = phases.argument_bytes(job.program, resident)
        step = estimate.step_bytes(job.recipe, job.program, resident, given)
        own = 10**8 * job.sequences if step is None else int((step - given) * self.share)
        if given + own > self.slice.chip.hbm_bytes:
            refusal = store.Refusal(given + own, self.slice.chip.hbm_bytes, "too large")
            return store.Figures(refused=refusal), False
        return store.Figures(argument_bytes=given, temp_bytes=own), False

    def __exit__(self, *error: object) -> None:
        pass


def asking(chip: Any, *assignments: str) -> planner.Planner:
    recipe = recipe_lib.load("gemma3-1b", assignments=assignments)
    return planner.Planner(recipe, "patched", chip, any_mesh=True)


def brute(of: planner.Planner, chip: Any, free: float) -> float | None:
    """The least bound of all settings that fit, each looked at by itself."""
    batching, best = of.recipe.batching, None
    sizes = [1, 2, 4, 8, 16]
    group = shapes.group(of.recipe, of.fixes)
    for micro, remat, rollout, logps in itertools.product(sizes, REMATS, sizes, sizes):
        if batching.mini_batch_size % micro or max(rollout, logps) > group:
            continue
        recipe = recipe_lib.replace(
            of.recipe,
            f"batching.train_micro_batch_size={micro}",
            f"batching.rollout_micro_batch_size={rollout}",
            f"batching.compute_logps_micro_batch_size={logps}",
            f"model.remat={remat or 'none'}",
        )
        job = store.Job(recipe, of.fixes, of.slice.name, "resident", rollout)
        resident = chip.ask(job)[0]["resident"]
        for name in shapes.of(recipe):
            sequences = shapes.sequences(recipe, name, of.fixes)
            size = chip.figures(dataclasses.replace(job, program=name, sequences=sequences))[0]
            peak = (size.peak_bytes or 0) + phases.beside_bytes(name, resident)
            if size.refused or peak > int(of.slice.chip.hbm_bytes * (1 - free)):
                break
        else:
            seconds = bounds.step_seconds(recipe, of.slice, of.fixes)
            best = seconds if best is None else min(best, seconds)
    return best


@pytest.mark.parametrize("share", [0.9, 1.05])
@pytest.mark.parametrize("gib", [18, 20, 22, 26, 40])
def test_what_is_recommended_is_the_best_that_fits(gib, share):
    chip: Any = Chip(gib, share)
    of = asking(chip)
    plan = recommend.make(of)
    found = plan["recommendation"]
    best = brute(of, chip, settings.COMFORT) or brute(of, chip, planner.MARGIN)
    if best is None:
        assert found["recommended"] is None
        assert not plan["fits"]
        return
    row = found["rows"][found["recommended"]]
    assert row["seconds_per_global_step"] == pytest.approx(best, abs=1e-4)
    assert plan["fits"]
    # What is planned is what is recommended, and leaves the margin free.
    assert plan["recipe"] == found["recipe"]
    peaks = [phase["peak_bytes"] for phase in plan["phases"]]
    assert max(peaks) <= gib * GIB * (1 - planner.MARGIN)
    assert gib * GIB - max(peaks) == row["least_headroom_bytes"]
    assert [each["peak_bytes"] for each in row["phases"]] == peaks


def test_without_leave_only_sizes_remat_and_mesh_change():
    found = recommend.make(asking(Chip(24)))["recommendation"]
    fields = {text.split("=")[0] for text in found["assignments"]}
    assert fields <= {
        *(f"batching.{name}_micro_batch_size" for name in ("train", "rollout", "compute_logps")),
        "model.remat",
    }
    assert found["changes_the_algorithm"] == []
    assert {each.name for each in changes.CHANGES} <= {
        name for row in found["rows"] if not row["searched"] for name in row["allow"]
    }


def test_what_is_allowed_is_searched_and_explained():
    plan = recommend.make(asking(Chip(24)), allow=["bfloat16"])
    found = plan["recommendation"]
    row = found["rows"][found["recommended"]]
    assert row["allow"] == ["bfloat16"]
    assert found["recipe"]["model"]["dtype"] == "bfloat16"
    text = advice.to_toml(plan)
    effect = next(each.effect for each in changes.CHANGES if each.name == "bfloat16")
    assert f"#   model.dtype=bfloat16: {effect}" in text


def test_a_critic_by_lora_is_explained_field_by_field():
    of = asking(Chip(24))
    plan = recommend.make(of, allow=["lora-critic"])
    row = next(r for r in plan["recommendation"]["rows"] if r["allow"] == ["lora-critic"])
    changed = {text.split("=")[0] for text in row["assignments"]}
    assert {"critic.lora.rank", "critic.lora.alpha", "critic.lora.modules"} <= changed
    effect = next(each.effect for each in changes.CHANGES if each.name == "lora-critic")
    for text, output in advice.explained(
        {**plan["recommendation"], "assignments": row["assignments"]}, row
    ):
        assert (output == effect) == text.startswith("critic.lora")


def test_nothing_fits_is_said_with_the_nearest_and_the_bytes_that_lack():
    plan = recommend.make(asking(Chip(11)))
    assert plan["recommendation"]["recommended"] is None
    line = advice.shortage(plan)
    lives = sum(LIVES.values())
    # At best no accumulator lives there; 5% is left free.
    assert f"{lives - int(11 * GIB * 0.95):,} bytes more" in line
    assert "--allow bfloat16" in line
    assert "\n" not in line


def test_the_file_gives_the_recipe_back_and_says_what_it_changes(tmp_path):
    plan = recommend.make(asking(Chip(24)))
    found = plan["recommendation"]
    text = advice.to_toml(plan)
    file = tmp_path / "mine.toml"
    file.write_text(text)
    # Over any preset, since the file holds the whole recipe.
    assert recipe_lib.to_dict(recipe_lib.load("tiny", toml=file)) == found["recipe"]
    head = text[: text.index("\n\n")]
    assert all(line.startswith("#") for line in head.splitlines())
    for assignment in found["assignments"]:
        assert f"#   {assignment}: nothing, but for rounding" in head
    before, after = found["seconds_per_global_step"].values()
    assert f"at least {before:.3f} s -> {after:.3f} s" in head
    assert "lower bound" in head


def test_a_comment_sign_taken_off_stops_completions_at_the_end_of_the_turn():
    plan = recommend.make(asking(Chip(24)))
    text = advice.to_toml(plan)
    assert tomllib.loads(text)["rollout"]["stop_tokens"] == ["<eos>"]
    assert "stop-tokens" in text  # whole, to be copied
    comment = '    # "<end_of_turn>",'
    assert text.count(comment) == 1
    changed = tomllib.loads(text.replace(comment, comment.replace("# ", "")))
    assert changed["rollout"]["stop_tokens"] == ["<eos>", "<end_of_turn>"]


def test_stop_tokens_are_switched_on_where_they_are_allowed():
    plan = recommend.make(asking(Chip(24)), allow=["stop-tokens"])
    found = plan["recommendation"]
    assert found["recipe"]["rollout"]["stop_tokens"] == ["<eos>", "<end_of_turn>"]
    assert found["stop_tokens"]["stops"]
    assert '# "<end_of_turn>"' not in advice.to_toml(plan)
    assert any("turn" in each for each in found["changes_the_algorithm"])


def test_a_recommendation_is_json_and_is_printed():
    from rich.console import Console

    for gib in (24, 13):
        plan = json.loads(json.dumps(recommend.make(asking(Chip(gib)))))
        console = Console(record=True, width=200)
        console.print(advice.render(plan))
        shown = console.export_text()
        for row in plan["recommendation"]["rows"]:
            assert row["title"] in shown


def test_the_page_has_a_section_for_each_plan(tmp_path):
    sources = []
    for gib in (24, 13):
        source = tmp_path / f"{gib}.json"
        source.write_text(json.dumps(recommend.make(asking(Chip(gib)))))
        sources.append(str(source))
    page = tmp_path / "page.md"
    recommendations.main([str(page), *sources])
    text = page.read_text()
    assert text.count("## v6e-1") == 2
    assert "no setting that leaves the algorithm as it is fits" in text
    assert "recommended, same algorithm" in text
    # A bar within a value, as in the modules of LoRA, ends no cell.
    rows = [line for line in text.splitlines() if line.startswith("| + a critic by LoRA")]
    assert len(rows) == 2
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}
    with pytest.raises(errors.HarnessError, match=r"no\.json cannot be read"):
        recommendations.main([str(page), str(tmp_path / "no.json")])


def test_on_several_chips_the_mesh_is_chosen_among_those_that_divide():
    chip: Any = Chip(24, chip="v5e-8")
    plan = recommend.make(asking(chip))
    mesh = plan["recommendation"]["recipe"]["sharding"]
    assert mesh["fsdp"] * mesh["tp"] == 8
    assert (mesh["fsdp"], mesh["tp"]) in settings.meshes(asking(chip).recipe, chip.slice)


def test_meshes_over_which_an_array_does_not_divide_are_left_out():
    slice_ = hardware.find_slice("v5e-8")
    recipe = small_recipe("model.num_heads=2", "model.num_kv_heads=2")
    # 8 x tp: the two heads do not divide over 4 or 8 chips.
    assert settings.meshes(recipe, slice_) == [(8, 1), (4, 2)]


def run(monkeypatch: Any, capsys: Any, *arguments: str) -> tuple[int, str]:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", "--preset", "gemma3-1b", *arguments])
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--allow", "bfloat16"), ("--recommend",)),
        (("--certain",), ("--recommend",)),
        (("--recommend", "{folder}/a.toml", "--sweep"), ("--sweep",)),
        (("--recommend", "{folder}/a.toml", "--program", "logps"), ("--program",)),
        (("--recommend", "{folder}/no/a.toml"), ("no/a.toml", "folder")),
        (("--recommend", "{folder}"), ("name a file",)),
        (("--recommend", "{folder}/a.toml", "--allow", "int4"), ("int4", *changes.NAMES)),
    ],
)
def test_what_cannot_be_recommended_is_refused_in_one_line(
    monkeypatch, capsys, tmp_path, arguments, words
):
    code, output = run(monkeypatch, capsys, *(each.format(folder=tmp_path) for each in arguments))
    assert code == 2
    assert output.count("\n") == 1
    assert all(word in output for word in words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("gib", "code"), [(24, 0), (13, 1)])
def test_the_command_writes_a_recipe_or_says_that_nothing_fits(
    monkeypatch, capsys, tmp_path, gib, code
):
    made: Any = Chip(gib)

    class Compiling:
        def __init__(self, *args: Any, **kwargs: Any):
            pass

        def __enter__(self) -> Any:
            return made

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(compiler, "Compiler", Compiling)
    file, record = tmp_path / "fast.toml", tmp_path / "plan.json"
    found, _ = run(monkeypatch, capsys, "--recommend", str(file), "--json", str(record))
    assert found == code
    plan = json.loads(record.read_text())
    assert plan["fits"] == (code == 0)
    assert file.exists() == (code == 0)
    for key in ("chip", "hbm_bytes", "resident", "programs", "phases", "recommendation"):
        assert key in plan
    if code == 0:
        recipe = recipe_lib.load("tiny", toml=file)
        assert recipe_lib.to_dict(recipe) == plan["recommendation"]["recipe"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "plans" / "recommended").glob("*.toml")), ids=lambda path: path.stem
)
def test_a_committed_recommendation_is_a_recipe_with_what_its_head_says(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#   ")]
    output = [line.strip("# ").partition(":")[0] for line in head if "=" in line.partition(":")[0]]
    assert output
    found = recipe_lib.load("gemma3-1b", toml=str(path))
    assert found == recipe_lib.load("gemma3-1b", assignments=output)
