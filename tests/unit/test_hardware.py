"""The table of chips."""

import pytest

from harness import hardware
from harness.errors import HarnessError


def test_a_machine_is_known_by_what_jax_calls_its_devices():
    for each in hardware.SLICES.values():
        assert each.chip.device_kind is not None
        assert hardware.slice_of(each.chip.device_kind, each.count) == each
        assert hardware.chip_of(each.chip.device_kind) == each.chip
    # A v5p is named by its cores.
    assert hardware.slice_of("TPU v5", 4) == hardware.SLICES["v5p-8"]
    assert hardware.slice_of("TPU v6 lite", 3) is None
    assert hardware.slice_of("cpu", 1) is None
    assert hardware.chip_of("cpu") is None


def test_every_chip_is_in_the_table_once():
    assert len({each.name for each in hardware.CHIPS}) == len(hardware.CHIPS)
    assert {each.chip for each in hardware.SLICES.values()} <= set(hardware.CHIPS)


def test_a_slice_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(HarnessError, match="unknown chip 'v7x-1': use one of v6e-1, v6e-4"):
        hardware.find_slice("v7x-1")


@pytest.mark.parametrize(("dtype", "rate"), [("bfloat16", 989e12), ("float32", 494e12)])
def test_rates_are_those_of_the_operands(dtype, rate):
    assert hardware.H100.flops(dtype) == rate
