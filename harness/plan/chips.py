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
from harness import recipe as recipe_lib

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      name: Its family.
      hbm_bytes: Bytes of HBM that a program may use on one chip: for a TPU what
        its compiler gives, which is a little less than what is sold.
      bf16_flops: Multiply-adds of bfloat16 a second, times two.
      fp32_flops: The same for float32 operands at XLA's default precision.
      bandwidth: Bytes a second between HBM and the chip.
    """

    name: str
    hbm_bytes: int
    bf16_flops: float
    fp32_flops: float
    bandwidth: float

    def flops(self, dtype: str) -> float:
        """Gives the rate for operands of a recipe's `model.dtype`."""
        return self.bf16_flops if dtype == "bfloat16" else self.fp32_flops


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that a plan is made for.

    Attributes:
      name: As on the command line.
      chip: Each of them.
      count: How many.
      topology: The compiler's name for their arrangement, none where it has none.
      bounds: Chips of one host along each axis.
    """

    name: str
    chip: Chip
    count: int
    topology: str | None
    bounds: tuple[int, int, int]


V6E = Chip("v6e", int(31.25 * GIB), 918e12, 918e12, 1638e9)
V5E = Chip("v5e", int(15.75 * GIB), 197e12, 197e12, 819e9)
V5P = Chip("v5p", int(95.74 * GIB), 459e12, 459e12, 2765e9)
H100 = Chip("h100", 80 * 10**9, 989e12, 494e12, 3350e9)
H200 = Chip("h200", 141 * 10**9, 989e12, 494e12, 4800e9)

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
BOUNDS_ONLY = (H100, H200)


def find(name: str) -> Slice:
    """Looks a slice up.

    Args:
      name: As on the command line.

    Returns:
      The slice.

    Raises:
      HarnessError: There is none of that name; the message lists them.
    """
    if name not in SLICES:
        raise errors.HarnessError(f"unknown chip '{name}': use one of {', '.join(SLICES)}")
    return SLICES[name]


def check_mesh(place: Slice, sharding: recipe_lib.Sharding) -> None:
    """Refuses a mesh that does not lie over all chips of a slice.

    Args:
      place: The slice.
      sharding: Sizes of the mesh.

    Raises:
      HarnessError: Their product is not the number of chips.
    """
    if sharding.fsdp * sharding.tp != place.count:
        raise errors.HarnessError(
            f"the mesh of fsdp {sharding.fsdp} x tp {sharding.tp} does not divide the "
            f"{place.count} chip(s) of {place.name}: set sharding.fsdp and sharding.tp so that "
            f"their product is {place.count}"
        )
