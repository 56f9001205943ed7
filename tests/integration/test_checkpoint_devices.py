"""Weights that other devices wrote, in the formats of every Orbax: read whole, or refused by cause.

Each checkpoint is written by Orbax: one process with sixteen devices, of which
this one has eight, writes all that is sharded. Files that a TPU or GPU wrote
differ from those of a CPU in the device that `_sharding` names.
"""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx, serialization
from orbax import checkpoint as ocp

from harness import models, upstream
from harness import recipe as recipe_lib
from harness.errors import HarnessError
from harness.models import checkpoint, gemma
from tests.conftest import small_recipe
from tests.support import killing

WRITER = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax import checkpoint as ocp
from orbax.checkpoint import type_handlers
from orbax.checkpoint._src.metadata import array_metadata_store

# Replicas are not cut, which compiles a program for each cut; all else is as by default.
whole = type_handlers.ArrayHandler(
    use_replica_parallel=False, array_metadata_store=array_metadata_store.Store()
)
type_handlers.register_type_handler(jax.Array, whole, override=True)
out = pathlib.Path(sys.argv[1])
devices = np.array(jax.devices())
assert len(devices) == 16, devices
mesh = Mesh(devices.reshape(8, 2), ("fsdp", "tp"))

def over(array):
    axes = [None] * array.ndim
    if array.shape[0] % 8 == 0:
        axes[0] = "fsdp"
    if array.ndim > 1 and array.shape[-1] % 2 == 0:
        axes[-1] = "tp"
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))

tree = {}
for name, array in np.load(out / "weights.npz").items():
    module, _, parameter = name.rpartition("/")
    tree.setdefault(module, {})[parameter] = array
sharded = jax.tree.map(over, tree)
half = jax.tree.map(lambda array: over(array.astype(jnp.bfloat16)), tree)
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(out / "standard", sharded)
with ocp.PyTreeCheckpointer() as checkpointer:
    checkpointer.save(out / "pytree-bfloat16", half)
with ocp.PyTreeCheckpointer(use_ocdbt=False) as checkpointer:
    checkpointer.save(out / "pytree-zarr", sharded)
"""


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return models.make_mesh(small_recipe().sharding)


@pytest.fixture(scope="module")
def weights(mesh) -> dict[tuple[Any, ...], np.ndarray]:
    policy = models.random_gemma(small_recipe().model, mesh, 3)
    return {path: np.asarray(leaf) for path, leaf in gemma.weights_of(policy).items()}


@pytest.fixture(scope="module")
def published(weights) -> dict[str, np.ndarray]:
    """The weights by the names and in the layout of the published checkpoints."""
    return {
        f"{module}/{name}": value for module, name, value in checkpoint._to_upstream(dict(weights))
    }


@pytest.fixture(scope="module")
def written(published, tmp_path_factory) -> pathlib.Path:
    """What sixteen devices wrote."""
    out = tmp_path_factory.mktemp("written")
    np.savez(out / "weights.npz", **published)  # type: ignore[arg-type]
    flags = "--xla_force_host_platform_device_count=16 --xla_backend_optimization_level=0"
    subprocess.run(
        [sys.executable, "-c", WRITER, str(out)],
        check=True,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    return out


@pytest.fixture(scope="module")
def one_device(weights, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("one") / "gemma"
    device = jax.devices()[0]
    checkpoint.write({p: jax.device_put(w, device) for p, w in weights.items()}, folder)
    tree: dict[str, dict[str, jax.Array]] = {}
    for module, name, value in checkpoint._to_upstream(dict(weights)):
        tree.setdefault(module, {})[name] = jax.device_put(value, device)
    arrays = folder.with_name("arrays")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(arrays, tree)
    return arrays


def model_of(folder: pathlib.Path, *assignments: str) -> recipe_lib.Model:
    model = small_recipe(*assignments).model
    return dataclasses.replace(model, weights="checkpoint", checkpoint=str(folder))


def check(folder: pathlib.Path, weights: dict, dtype: Any = np.float32) -> None:
    found = checkpoint.read(model_of(folder))
    assert found.keys() == weights.keys()
    for path, want in weights.items():
        assert found[path].dtype == dtype
        np.testing.assert_array_equal(found[path], want.astype(dtype), err_msg=str(path))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("standard", np.float32),
        ("pytree-bfloat16", ml_dtypes.bfloat16),
        ("pytree-zarr", np.float32),
    ],
)
def test_what_more_devices_wrote_is_read(name, dtype, written, weights):
    sharding = json.loads((written / name / "_sharding").read_text())
    assert any("[8, 2]" in each for each in sharding.values())
    check(written / name, weights, dtype)


def renamed_device(folder: pathlib.Path, target: pathlib.Path, device: str) -> pathlib.Path:
    """Copy a checkpoint; the copy says that one device of another kind wrote it."""
    shutil.copytree(folder, target)
    changed = 0
    for file in target.rglob("_sharding"):
        tree = {key: json.loads(value) for key, value in json.loads(file.read_text()).items()}
        for key, value in tree.items():
            tree[key] = {"sharding_type": "SingleDeviceSharding", "device_str": device}
            changed += "device_str" in value or "device_mesh" in value
        file.write_text(json.dumps({key: json.dumps(value) for key, value in tree.items()}))
    assert changed
    return target


@pytest.mark.parametrize("device", ["TPU_0(process=0,(0,0,0,0))", "cuda:0", "rocm:0"])
def test_what_a_device_of_another_kind_wrote_is_read(device, one_device, weights, tmp_path):
    folder = renamed_device(one_device, tmp_path / "theirs", device)
    # By itself Orbax does not find the device; once it does, this module is not needed.
    with pytest.raises(ValueError, match="Topology mismatch"):
        ocp.StandardCheckpointer().restore(folder)
    check(folder, weights)


def of_names(folder: pathlib.Path, published: dict[str, np.ndarray]) -> None:
    """As Orbax 0.1 to 0.4: a file of names, which says where each array is."""
    (folder / "checkpoint").write_bytes(
        serialization.msgpack_serialize(
            nested(
                {
                    name: f"PLACEHOLDER://{name.rpartition('/')[0]}.{name.rpartition('/')[2]}"
                    for name in published
                }
            )
        )
    )


def nested(flat: dict[str, Any]) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        module, _, parameter = name.rpartition("/")
        tree.setdefault(module, {})[parameter] = value
    return tree


def without(*names: str) -> Callable[[pathlib.Path, dict[str, np.ndarray]], None]:
    def remove(folder: pathlib.Path, published: dict[str, np.ndarray]) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


LATER = ("_CHECKPOINT_METADATA", "array_metadatas")


def names_alone(folder: pathlib.Path, published: dict[str, np.ndarray]) -> None:
    of_names(folder, published)
    without(*LATER, "_METADATA", "_sharding")(folder, published)


def names_and_metadata(folder: pathlib.Path, published: dict[str, np.ndarray]) -> None:
    of_names(folder, published)
    without(*LATER)(folder, published)


def values(folder: pathlib.Path, published: dict[str, np.ndarray]) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(nested(published)))


OLDER = {
    "0.6, without array metadata": without("array_metadatas"),
    "0.5, without its own metadata": without(*LATER),
    "0.4, a file of names beside": names_and_metadata,
    "0.1, a file of names alone": names_alone,
    "0.1, all in one file": values,
    "sharding left out": without("_sharding"),
}


@pytest.mark.parametrize("older", OLDER.values(), ids=OLDER)
def test_the_formats_of_older_orbax_are_read(older, written, weights, published, tmp_path):
    folder = tmp_path / "older"
    shutil.copytree(written / "standard", folder)
    older(folder, published)
    check(folder, weights)


@pytest.mark.parametrize(
    ("stored", "dtype", "output"),
    [
        ("pytree-bfloat16", "float32", ["holds bfloat16, the model float32: no value changes"]),
        ("standard", "bfloat16", ["holds float32, the model bfloat16: rounded to 8 significant"]),
        ("standard", "float32", []),
        ("pytree-bfloat16", "bfloat16", []),
    ],
)
def test_another_dtype_is_converted_and_reported(stored, dtype, output, written, weights, mesh):
    lines: list[str] = []
    loaded = models.load_gemma(
        model_of(written / stored, f"model.dtype={dtype}"), mesh, lines.append
    )
    assert len(lines) == len(output)
    for line, part in zip(lines, output, strict=True):
        assert part in line
    for path, leaf in gemma.weights_of(loaded).items():
        want = weights[path]
        if stored == "pytree-bfloat16":
            want = want.astype(ml_dtypes.bfloat16)
        assert leaf.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(np.asarray(leaf), want.astype(leaf.dtype))


def test_a_conversion_is_a_warning_where_no_callback_takes_the_line(written, mesh):
    with pytest.warns(UserWarning, match="the checkpoint holds bfloat16, the model float32"):
        models.load_gemma(model_of(written / "pytree-bfloat16"), mesh)


def test_a_range_that_does_not_fit_is_called_rounding():
    path = ("final_norm", "scale")
    half, brain = np.ones(2, np.float16), np.ones(2, ml_dtypes.bfloat16)
    assert "rounded to 11" in str(checkpoint.describe_conversion({path: brain}, {path: half}))
    assert "rounded to 8" in str(checkpoint.describe_conversion({path: half}, {path: brain}))


def test_weights_that_are_quantized_are_refused(published, tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(
            tmp_path / "int8", nested({n: v.astype(np.int8) for n, v in published.items()})
        )
    with pytest.raises(HarnessError, match=r"holds int8 in .* not quantized"):
        checkpoint.read(model_of(tmp_path / "int8"))


def test_files_that_may_not_be_read_are_not_called_truncated(written, monkeypatch):
    def denied(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(ocp.PyTreeCheckpointer, "restore", denied)
    with pytest.raises(HarnessError, match=r"cannot be read \(Permission denied\): let this user"):
        checkpoint.read(model_of(written / "standard"))


@pytest.mark.parametrize(("stored", "asked"), [(576, 512), (512, 576)])
def test_a_vocabulary_padded_otherwise_is_refused_by_its_cure(stored, asked, mesh, tmp_path):
    recipe = small_recipe(f"model.vocab_size={stored}")
    drawn = models.random_gemma(recipe.model, mesh, 0)
    checkpoint.write(gemma.weights_of(drawn), tmp_path / "gemma")
    with pytest.raises(HarnessError) as refused:
        checkpoint.read(model_of(tmp_path / "gemma", f"model.vocab_size={asked}"))
    output = str(refused.value)
    assert f"its vocabulary has {stored} rows, the recipe's {asked};" in output
    cure = output.partition("--set ")[2]
    loaded = models.load_gemma(model_of(tmp_path / "gemma", cure), mesh)
    assert models.checksum(loaded) == models.checksum(drawn)


def test_a_runs_own_checkpoint_is_restored_where_another_device_wrote_it(finished_run, tmp_path):
    source = finished_run.out / "checkpoints" / "actor"
    theirs = renamed_device(
        source, tmp_path / "checkpoints" / "actor", "TPU_0(process=0,(0,0,0,0))"
    )
    assert theirs.is_dir()
    recipe = finished_run.recipe
    mesh = models.make_mesh(recipe.sharding)
    policy = models.make_policy(recipe, mesh)
    actor = models.apply_lora(policy, recipe.lora, mesh, recipe.seed)
    step = upstream.restore_actor(actor, tmp_path)
    saved = killing.weights(finished_run.out, step)
    restored = models.lora_weights(actor)
    assert restored
    for name, factor in restored.items():
        there = saved[f"actor/model_params//{name.replace('.', '/')}/value"]
        np.testing.assert_array_equal(factor, there, err_msg=name)
    assert {type(leaf) for leaf in jax.tree.leaves(nnx.state(actor))} == {type(jnp.ones(1))}
