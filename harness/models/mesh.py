"""The device mesh of a recipe."""

import contextlib
import warnings
from collections.abc import Iterator

import jax
import numpy as np

from harness import errors
from harness import recipe as recipe_lib


def make_mesh(sharding: recipe_lib.Sharding) -> jax.sharding.Mesh:
    """Lay the (fsdp, tp) mesh over the first devices.

    Args:
      sharding: Sizes of the two axes.

    Returns:
      A mesh of shape [fsdp, tp] with those axis names.

    Raises:
      HarnessError: Fewer devices than fsdp * tp, or several hosts.
    """
    one_host()
    needed = sharding.fsdp * sharding.tp
    devices = jax.devices()
    if len(devices) < needed:
        raise errors.HarnessError(
            f"sharding needs {needed} devices (fsdp {sharding.fsdp} x tp {sharding.tp}) but "
            f"{len(devices)} {devices[0].platform} device(s) are here: lower sharding.fsdp or "
            "sharding.tp (on CPU, XLA_FLAGS=--xla_force_host_platform_device_count=N makes N)"
        )
    grid = np.asarray(devices[:needed]).reshape(sharding.fsdp, sharding.tp)
    return jax.sharding.Mesh(grid, ("fsdp", "tp"))


@contextlib.contextmanager
def entered(mesh: jax.sharding.Mesh) -> Iterator[None]:
    """Enter a mesh, so that Tunix's models lay their activations over it.

    They look for the mesh of `with mesh:`, which JAX deprecates for `jax.set_mesh`; that one they
    do not see, and would lay nothing out.

    Args:
      mesh: The mesh.

    Yields:
      Nothing.
    """
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`with mesh:`", DeprecationWarning)
            stack.enter_context(mesh)
        yield


def one_host() -> None:
    """Refuse to go on where several hosts are joined.

    Raises:
      HarnessError: They are.
    """
    if jax.process_count() > 1:
        raise errors.HarnessError(
            f"{jax.process_count()} hosts are joined here, and Tunix takes each one's batch for "
            "another part of it (known issue several-hosts: python -m harness check --explain "
            "several-hosts): use one host; its chips are shared by sharding.fsdp and sharding.tp"
        )
