"""Accelerators: what their makers publish, and how their topologies are called.

Rates are for one chip and dense operands. Sources, by family:

- v6e: cloud.google.com/tpu/docs/v6e: 918 TFLOP/s bf16, 32 GB, 1,638 GB/s.
- v5e: cloud.google.com/tpu/docs/v5e: 197 TFLOP/s bf16, 16 GB, 819 GB/s.
- v5p: cloud.google.com/tpu/docs/v5p: 459 TFLOP/s bf16, 95 GB, 2,765 GB/s.
- H100 SXM: the H100 data sheet: 989 TFLOP/s bf16, 494 TFLOP/s TF32, 80 GB,
  3.35 TB/s.
- H200 SXM: the H200 data sheet: the same rates, 141 GB, 4.8 TB/s.

XLA multiplies float32 operands in one bfloat16 pass on a TPU and in TF32 on
these GPUs unless a precision is asked for, so those are the float32 rates here.
"""

import dataclasses

from harness import errors

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      name: Its family.
      hbm_bytes: Bytes of HBM that a program may use on one chip: for a TPU what
        its compiler allows, which is a little less than what is sold.
      bf16_flops: Multiply-adds of bfloat16 a second, times two.
      fp32_flops: The same for float32 operands at XLA's default precision.
      bandwidth: Bytes a second between HBM and the chip.
      device_kind: `jax.Device.device_kind` of it; None where JAX has no name.
    """

    name: str
    hbm_bytes: int
    bf16_flops: float
    fp32_flops: float
    bandwidth: float
    device_kind: str | None = None

    def flops(self, dtype: str) -> float:
        """Return the rate for operands of a recipe's `model.dtype`."""
        return self.bf16_flops if dtype == "bfloat16" else self.fp32_flops


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that a plan is made for.

    Attributes:
      name: As on the command line.
      chip: Each of them.
      count: How many.
      topology: The compiler's name for their arrangement.
      bounds: Chips of one host along each axis.
    """

    name: str
    chip: Chip
    count: int
    topology: str
    bounds: tuple[int, int, int]


V6E = Chip("v6e", int(31.25 * GIB), 918e12, 918e12, 1638e9, "TPU v6 lite")
V5E = Chip("v5e", int(15.75 * GIB), 197e12, 197e12, 819e9, "TPU v5 lite")
V5P = Chip("v5p", int(95.74 * GIB), 459e12, 459e12, 2765e9, "TPU v5")
H100 = Chip("h100", 80 * 10**9, 989e12, 494e12, 3350e9, "NVIDIA H100 80GB HBM3")
H200 = Chip("h200", 141 * 10**9, 989e12, 494e12, 4800e9, "NVIDIA H200")

CHIPS = (V5E, V6E, V5P, H100, H200)
# A v5p is named by its cores, of which a chip has two.
SLICES = {
    each.name: each
    for each in (
        Slice("v6e-1", V6E, 1, "v6e:1x1", (1, 1, 1)),
        Slice("v6e-4", V6E, 4, "v6e:2x2", (2, 2, 1)),
        Slice("v6e-8", V6E, 8, "v6e:2x4", (2, 4, 1)),
        Slice("v5e-1", V5E, 1, "v5e:1x1", (1, 1, 1)),
        Slice("v5e-8", V5E, 8, "v5e:2x4", (2, 4, 1)),
        Slice("v5p-8", V5P, 4, "v5p:2x2x1", (2, 2, 1)),
    )
}


def find_slice(name: str) -> Slice:
    """Return the slice of a name.

    Args:
      name: As on the command line.

    Raises:
      HarnessError: There is none of that name; the message lists them.
    """
    if name not in SLICES:
        raise errors.HarnessError(f"unknown chip '{name}': use one of {', '.join(SLICES)}")
    return SLICES[name]


def slice_of(device_kind: str, count: int) -> Slice | None:
    """Return the slice that devices make up, None where `plan` has no such slice.

    Args:
      device_kind: What JAX calls each of them.
      count: How many there are.
    """
    for each in SLICES.values():
        if each.chip.device_kind == device_kind and each.count == count:
            return each
    return None


def chip_of(device_kind: str) -> Chip | None:
    """Return the chip that JAX calls by a `device_kind`, None where it is not known."""
    return next((each for each in CHIPS if each.device_kind == device_kind), None)
