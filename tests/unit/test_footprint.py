"""What a recipe certainly holds in memory is compared with what there is before anything runs."""

import math
import types

import jax
import pytest

from harness import e2e, footprint, models, upstream
from harness import recipe as recipe_lib
from harness.errors import HarnessError
from harness.measure import memory
from harness.models import checkpoint
from harness.upstream.instrument import programs
from harness.upstream.instrument import resident as resident_lib
from tests.conftest import SMALL
from tests.support.cli import call

GIB = 2**30


@pytest.mark.parametrize("changes", [(), ("model.num_kv_heads=4",), ("model.num_layers=3",)])
def test_weights_are_counted_as_the_published_layout_has_them(changes):
    model = recipe_lib.load("gemma3-1b", assignments=changes).model
    shapes = checkpoint.upstream_shapes(model)
    assert footprint.parameters(model) == sum(map(math.prod, shapes.values()))


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("batching.train_micro_batch_size=8", "model.dtype=bfloat16"),
        ("model.num_kv_heads=4", "model.dtype=bfloat16"),
        ("precision.trained=bfloat16", "precision.accumulators=bfloat16", "rollout.dtype=bfloat16"),
        ("model.dtype=bfloat16", "precision.moments=bfloat16", "rollout.dtype=bfloat16"),
        ("critic.lora.rank=2",),
    ],
    ids=[
        "accumulates",
        "one micro-batch",
        "queries, keys and values in one",
        "trained in bfloat16",
        "moments in bfloat16",
        "a critic by LoRA",
    ],
)
def test_the_count_is_what_training_keeps(changes):
    recipe = recipe_lib.load("tiny", assignments=(*SMALL, *changes))
    mesh = models.make_mesh(recipe.sharding)
    fixes = upstream.Fixes(("model-not-donated", "policy-anchored", "lora-critic-head-frozen"))
    learner = programs.abstract_learner(recipe, mesh, fixes)
    kept = {each.name: each.bytes for each in resident_lib.resident(learner)}
    found = footprint.of(recipe)
    assert found.policy == kept["actor base"]
    assert found.critic == found.gradients == kept["critic"]
    assert found.moments == kept["critic first moment"] + kept["critic second moment"]
    assert found.accumulator == kept["critic gradient accumulator"]
    # Gradients have the dtype of what they are of.
    lora = ("LoRA", "first moment", "second moment", "gradient accumulator")
    gradients = kept["actor LoRA"]
    assert found.lora == gradients + sum(kept[f"actor {name}"] for name in lora)
    assert found.rollout == kept.get("rollout copy", 0)


def of(bytes_: int, devices: int = 1) -> footprint.Capacity:
    return footprint.Capacity(bytes_, "this machine", devices)


def test_what_fits_is_let_through():
    recipe = recipe_lib.load("gemma3-1b")
    needed = footprint.of(recipe).total
    footprint.check(recipe, of(needed))
    footprint.check(recipe, None)
    footprint.check(recipe, of(needed // 8, 8))
    for little in (of(needed - 1), of(needed // 8 - 1, 8)):
        with pytest.raises(HarnessError):
            footprint.check(recipe, little)


def test_the_refusal_has_both_figures_and_what_would_fit():
    recipe = recipe_lib.load("gemma3-1b", assignments=["lora.modules=none_of_them"])
    with pytest.raises(HarnessError) as caught:
        footprint.check(recipe, of(21 * GIB))
    count = 999_885_952  # of Gemma 3 1B without its vision tower, as its model card counts
    parts = [4 * count, 4 * (count + 1152), 8 * (count + 1152), 4 * (count + 1152)]
    policy, critic, moments, gradients = (f"{each / GIB:.2f} GiB" for each in parts)
    total = f"{(sum(parts) + parts[3]) / GIB:.2f} GiB"
    # What is not trained in bfloat16.
    less = f"{(sum(parts) + parts[3] - parts[0] / 2) / GIB:.2f} GiB"
    assert str(caught.value) == (
        f"the recipe needs at least {total} (policy {policy}, critic {critic}, moments {moments}, "
        f"accumulator {gradients}, gradients {gradients}; activations come on top), this machine "
        f"has 21.00 GiB: set model.dtype=bfloat16, which needs at least {less}; "
        "--force goes on all the same"
    )


@pytest.mark.parametrize(
    ("changes", "output"),
    [
        ((), "set model.dtype=bfloat16, which"),
        (
            ("model.dtype=bfloat16",),
            "set batching.train_micro_batch_size=8, which",
        ),
        (
            ("model.dtype=bfloat16", "batching.train_micro_batch_size=8"),
            "set model.dtype=bfloat16, batching.train_micro_batch_size=8 and critic.lora.rank=64, "
            "which",
        ),
        (
            ("model.dtype=bfloat16", "batching.train_micro_batch_size=8", "critic.lora.rank=64"),
            "no setting of model.dtype, batching or critic.lora makes it fit, take a smaller "
            "model such as --preset tiny, or see what fits a chip by `python -m harness plan "
            "--chip NAME`",
        ),
    ],
)
def test_the_first_change_that_fits_is_named(changes, output):
    recipe = recipe_lib.load("gemma3-1b", assignments=changes)
    found = footprint.problem(recipe, of(footprint.of(recipe).total - 1))
    assert found is not None
    assert output in found


def device(platform: str, kind: str, limit: int | None) -> types.SimpleNamespace:
    stats = None if limit is None else {"bytes_limit": limit}
    return types.SimpleNamespace(platform=platform, device_kind=kind, memory_stats=lambda: stats)


@pytest.mark.parametrize(
    ("here", "bytes_"),
    [
        (device("gpu", "NVIDIA H100", 60 * GIB), 60 * GIB),
        (device("tpu", "TPU v6 lite", 31 * GIB), 31 * GIB),
        (device("tpu", "TPU v6 lite", None), int(31.25 * GIB)),
    ],
)
def test_a_device_is_asked_for_its_limit_and_else_known_by_its_kind(here, bytes_, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [here])
    recipe = recipe_lib.load("gemma3-1b", assignments=["sharding.fsdp=2"])
    assert footprint.capacity(recipe) == footprint.Capacity(bytes_, f"a {here.device_kind}", 2)


def test_a_device_that_says_nothing_refuses_nothing(monkeypatch):
    recipe = recipe_lib.load("gemma3-1b")
    monkeypatch.setattr(jax, "local_devices", lambda: [device("tpu", "TPU v9", None)])
    assert footprint.capacity(recipe) is None

    def fail():
        raise RuntimeError("no backend")

    monkeypatch.setattr(jax, "local_devices", fail)
    assert footprint.capacity(recipe) is None


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_a_container_has_what_its_control_group_allows(version, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "process_memory", lambda: 7)
    folder = tmp_path if version == "v2" else tmp_path / "memory"
    folder.mkdir(exist_ok=True)
    names = {"v2": ("memory.max", "memory.current"), "v1": ("limit_in_bytes", "usage_in_bytes")}
    limit, used = (
        folder / (name if version == "v2" else f"memory.{name}") for name in names[version]
    )
    without = footprint.available_host_memory(tmp_path / "none")
    limit.write_text("1000\n")
    used.write_text("300\n")
    assert footprint.available_host_memory(tmp_path) == 700 + 7 < without
    inactive = "total_inactive_file" if version == "v1" else "inactive_file"
    (folder / "memory.stat").write_text(f"cache 5\n{inactive} 200\n")
    assert footprint.available_host_memory(tmp_path) == 900 + 7
    used.write_text("5000\n")
    assert footprint.available_host_memory(tmp_path) == 7
    limit.write_text("max\n")
    assert footprint.available_host_memory(tmp_path) > 1000


TOO_LARGE = (
    *("--preset", "gemma3-1b", "--set", "model.weights=random"),
    *("--set", "model.num_layers=2000", "--data", "arithmetic"),
)


def test_run_refuses_before_it_makes_anything(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(footprint, "capacity", lambda recipe: of(24 * GIB))
    code, out, err = call(capsys, "run", *TOO_LARGE, "--out", tmp_path / "out")
    recipe = recipe_lib.load(
        "gemma3-1b",
        assignments=["model.weights=random", "model.num_layers=2000", "data.source=arithmetic"],
    )
    output = footprint.problem(recipe, of(24 * GIB))
    assert (code, out, err) == (2, "", f"error: {output}; --force goes on all the same\n")
    assert not (tmp_path / "out").exists()


def test_force_goes_on(capsys, tmp_path, monkeypatch):
    """To the next thing that is wrong: the folder is not empty."""
    (tmp_path / "kept").write_text("")
    monkeypatch.setattr(footprint, "capacity", lambda recipe: of(1))
    code, _, err = call(capsys, "run", "--preset", "tiny", "--out", tmp_path)
    assert code == 2
    assert "needs at least" in err
    code, _, err = call(capsys, "run", "--preset", "tiny", "--out", tmp_path, "--force")
    assert code == 2
    assert "needs at least" not in err
    assert str(tmp_path) in err


def test_a_chip_session_refuses_before_it_looks_further(monkeypatch):
    monkeypatch.setattr(footprint, "capacity", lambda recipe: of(GIB))
    recipe = recipe_lib.load(
        "gemma3-1b", assignments=["model.weights=random", "data.source=arithmetic"]
    )
    with pytest.raises(HarnessError, match=r"^the recipe needs at least .*--force goes on"):
        e2e.examine(recipe)
    report = e2e.examine(recipe, force=True)
    (found,) = [check for check in report.checks if check.name == "memory"]
    assert found.status == "missing"
    assert found.detail == footprint.problem(recipe, of(GIB))
