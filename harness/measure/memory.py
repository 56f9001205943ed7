"""Memory of devices and of this process, in bytes."""

import contextlib
import ctypes
import dataclasses
from collections.abc import Mapping

import humanize
import jax
import psutil


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
    """Memory of one device; a figure that the device does not report is None.

    Attributes:
      device: The device's kind and number.
      in_use: Bytes now held: buffers, and what is reserved for programs.
      peak: Most bytes ever held by this process. It is never reset: to measure
        two phases apart, run each in a process of its own.
      limit: Bytes that the process may hold.
    """

    device: str
    in_use: int | None
    peak: int | None
    limit: int | None


def device_memory() -> list[DeviceMemory]:
    """Read every device of this process; a CPU reports no figures."""
    return [
        from_stats(f"{device.device_kind} {device.id}", device.memory_stats())
        for device in jax.local_devices()
    ]


def from_stats(device: str, stats: Mapping[str, int] | None) -> DeviceMemory:
    """Read what `jax.Device.memory_stats` returned.

    A TPU counts a program's temporaries as reserved, not as in use; what it
    holds is the sum of the two. The sum of the two peaks is an upper bound
    where they fell at different times.

    Args:
      device: Name of the device.
      stats: Bytes by the runtime's names, or None.

    Returns:
      The figures; a reserved part that the device does not report counts as 0.
    """
    stats = stats or {}
    return DeviceMemory(
        device=device,
        in_use=_sum(stats, "bytes_in_use", "bytes_reserved"),
        peak=_sum(stats, "peak_bytes_in_use", "peak_bytes_reserved"),
        limit=stats.get("bytes_limit"),
    )


def peak_bytes() -> int | None:
    """Return the largest peak of this process's devices, None if no device reports one."""
    return max((each.peak for each in device_memory() if each.peak is not None), default=None)


def process_memory() -> int:
    """Return the bytes of host memory that this process holds (resident set)."""
    return psutil.Process().memory_info().rss


def give_back() -> None:
    """Return freed pages to the system, where the allocator retains them (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def describe() -> str:
    """Write one line per device that reports figures, then one for the host."""
    lines = [
        f"{each.device}: {_size(each.in_use)} in use, peak {_size(each.peak)} "
        f"of {_size(each.limit)}"
        for each in device_memory()
        if (each.in_use, each.peak, each.limit) != (None, None, None)
    ]
    return "\n".join([*lines, describe_host()])


def describe_host() -> str:
    """Write the line of the host alone, for which no device is asked."""
    total = psutil.virtual_memory().total
    return f"host: {_size(process_memory())} in use by this process of {_size(total)}"


def _sum(stats: Mapping[str, int], used: str, reserved: str) -> int | None:
    return stats[used] + stats.get(reserved, 0) if used in stats else None


def _size(count: int | None) -> str:
    return "unknown" if count is None else humanize.naturalsize(count, binary=True)
