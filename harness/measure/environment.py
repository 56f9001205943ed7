"""What a measurement depends on besides the code under test."""

import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Iterable
from typing import Any

import jax

from harness.measure import processor

PACKAGES = (
    "jax",
    "jaxlib",
    "libtpu",
    "flax",
    "qwix",
    "optax",
    "orbax-checkpoint",
    "google-tunix",
    "grain",
    "tensorflow-datasets",
    "numpy",
)


def fingerprint() -> dict[str, Any]:
    """Describe interpreter, machine, packages and devices.

    Two measurements whose fingerprints are equal were taken under like
    conditions. Nothing in it depends on time, paths or the machine's name, so
    two calls on one machine make the same JSON byte for byte. JAX's backend is
    started if it was not.

    Returns:
      Plain JSON values: `python`, `platform` (`system`, `machine`), `cpu`
      (`model` or null, `count` of logical cores), `packages` (version, or null
      where absent), `backend`, and `devices` (`kind`, `count`, over all
      processes).
    """
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": {"system": platform.system(), "machine": platform.machine()},
        "cpu": {"model": _cpu_model(), "count": os.cpu_count()},
        "packages": versions(PACKAGES),
        "backend": jax.default_backend(),
        "devices": {"kind": devices[0].device_kind, "count": len(devices)},
    }


# What a compiled program depends on; Tunix is judged, so it is not among them.
COMPILERS = ("jax", "jaxlib", "libtpu", "flax", "qwix", "optax")


def conditions() -> dict[str, Any]:
    """Return what figures of compiled programs depend on besides the code and the recipe.

    Returns:
      Plain JSON values, flat: Python's minor version, architecture, backend,
      device kind and count, the packages that make programs, compiler flags.
      On a CPU the model counts too, unless the flags set the instructions
      to compile for.
    """
    found = fingerprint()
    flags = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    given: dict[str, Any] = {
        "python": ".".join(found["python"].split(".")[:2]),
        "machine": found["platform"]["machine"],
        "backend": found["backend"],
        "device": found["devices"]["kind"],
        "devices": found["devices"]["count"],
    }
    if found["backend"] == "cpu":
        pinned = "--xla_cpu_max_isa=" in flags["XLA_FLAGS"]
        given["cpu"] = "any" if pinned else found["cpu"]["model"]
        given["cores"] = len(processor.cores())
    return {
        **given,
        **{f"packages.{name}": found["packages"][name] for name in COMPILERS},
        **{name: " ".join(sorted(value.split())) for name, value in flags.items()},
    }


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each distribution, None where absent."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    # platform.processor() is empty or a mere architecture on most Linuxes.
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or None
