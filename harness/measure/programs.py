"""What a compiled program needs, as its compiler reports, and how fast it could be."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from harness import hardware


@dataclasses.dataclass(frozen=True)
class Figures:
    """A compiled program in numbers, all of them the compiler's, not measured.

    Attributes:
      argument_bytes: Of its arguments.
      output_bytes: Of its outputs.
      alias_bytes: Of outputs that lie where donated arguments lay.
      temp_bytes: Of what it needs besides.
      code_bytes: Of the program itself.
      peak_bytes: arguments + outputs - aliases + temporaries + code: what must
        fit the device's memory.
      donated_bytes: Of arguments that were offered for outputs to lie in.
      flops: Floating-point operations; the body of a loop counts once, not per
        trip. None where the compiler does not report it.
      bytes_accessed: Bytes read and written, loops as in `flops`.
    """

    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temp_bytes: int
    code_bytes: int
    peak_bytes: int
    donated_bytes: int
    flops: int | None
    bytes_accessed: int | None

    def to_dict(self) -> dict[str, int | None]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


def figures(lowered: Any, compiled: Any) -> Figures:
    """Read what a compiler reports of a program.

    Args:
      lowered: `jax.stages.Lowered`, which knows what is donated.
      compiled: `jax.stages.Compiled` of it.

    Returns:
      The figures, per device.
    """
    memory = compiled.memory_analysis()
    cost = compiled.cost_analysis() or {}
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return Figures(
        argument_bytes=int(memory.argument_size_in_bytes),
        output_bytes=int(memory.output_size_in_bytes),
        alias_bytes=int(memory.alias_size_in_bytes),
        temp_bytes=int(memory.temp_size_in_bytes),
        code_bytes=int(memory.generated_code_size_in_bytes),
        peak_bytes=int(total),
        donated_bytes=sum(
            int(np.prod(info.shape)) * np.dtype(info.dtype).itemsize
            for info in jax.tree.leaves(lowered.args_info)
            if info.donated
        ),
        flops=_whole(cost, "flops"),
        bytes_accessed=_whole(cost, "bytes accessed"),
    )


def _whole(cost: Mapping[str, float], name: str) -> int | None:
    return int(cost[name]) if name in cost else None


def roofline_fraction(
    device_kind: str, seconds: float, flops: float | None, bytes_accessed: float | None
) -> float | None:
    """Return the share of the attainable speed that was reached, for bfloat16 operands.

    Args:
      device_kind: Name of the device.
      seconds: Measured time of a call.
      flops: Operations of a call, loops counted per trip.
      bytes_accessed: Bytes moved by a call, likewise.

    Returns:
      max(flops / peak, bytes / bandwidth) / seconds (Williams, Waterman and
      Patterson 2009, Roofline); None for a device without known ceilings, such
      as a CPU, or without figures.
    """
    chip = hardware.chip_of(device_kind)
    if chip is None or flops is None or bytes_accessed is None or seconds <= 0:
        return None
    return max(flops / chip.bf16_flops, bytes_accessed / chip.bandwidth) / seconds
