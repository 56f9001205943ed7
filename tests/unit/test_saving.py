"""What is written at one time is bounded, and the largest array still fits."""

import jax
import numpy as np
import pytest
from flax import nnx
from orbax import checkpoint as ocp
from tunix.sft import checkpoint_manager

from harness.upstream.engine import saving


class Model(nnx.Module):
    def __init__(self, size: int):
        self.weight = nnx.Param(jax.ShapeDtypeStruct((size,), np.dtype("float32")))


@pytest.mark.parametrize(("size", "gigabytes"), [(1, 1), (250_000_000, 1), (250_000_001, 2)])
def test_the_largest_array_fits_what_is_written_at_one_time(size, gigabytes):
    assert saving.concurrent_gb(Model(3), Model(size)) == gigabytes


def test_managers_built_in_the_block_are_bounded_and_no_others(monkeypatch, tmp_path):
    built = []

    def handler(**kwargs):
        built.append(kwargs)
        return plain(**kwargs)

    plain = ocp.PyTreeCheckpointHandler
    monkeypatch.setattr(saving.ocp, "PyTreeCheckpointHandler", handler)
    with saving.bounded(Model(3)):
        inside = checkpoint_manager.CheckpointManager(str(tmp_path / "inside"))
    outside = checkpoint_manager.CheckpointManager(str(tmp_path / "outside"))
    for each in (inside, outside):
        each.close()
    assert built == [{"save_concurrent_gb": 1}] * 2 + [{}] * 2
