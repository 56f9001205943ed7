"""The ledger: what is known to be wrong in Tunix's PPO, and what is done about it."""

import functools
import importlib.metadata
import importlib.resources
import warnings
from typing import Literal

from harness import errors
from harness.upstream.defects import DEFECTS, Defect

Mode = Literal["mended", "stock"]
SUPPORTED = ("0.1.6", "0.1.7")


def installed_version() -> str:
    """Gives the version of the installed Tunix.

    Raises:
      HarnessError: It is not installed, or the empty package of the name
        `tunix` is in its place.
    """
    try:
        return importlib.metadata.version("google-tunix")
    except importlib.metadata.PackageNotFoundError:
        raise errors.HarnessError(
            "google-tunix is not installed (the package called tunix is an empty "
            "placeholder): pip install google-tunix"
        ) from None


@functools.cache  # what is installed does not change under a process
def present() -> tuple[str, ...]:
    """Probes the installed Tunix and gives the ids of the defects found.

    Returns:
      Ids in the ledger's order, of the defects that have a probe.
    """
    found: dict[object, bool] = {}
    with warnings.catch_warnings():
        # Some give themselves away by these very warnings.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        for defect in DEFECTS:
            if defect.probe and defect.probe not in found:
                found[defect.probe] = defect.probe()
    return tuple(defect.id for defect in DEFECTS if defect.probe and found[defect.probe])


def mends(mode: Mode) -> tuple[str, ...]:
    """Gives the ids of the mends to apply: of every defect found that has one, or none.

    Args:
      mode: `mended`, or `stock` for Tunix exactly as installed.

    Returns:
      Ids in the ledger's order.
    """
    if mode == "stock":
        return ()
    mendable = {defect.id for defect in DEFECTS if defect.mend}
    return tuple(name for name in present() if name in mendable)


def standing(name: str) -> bool:
    """Tells whether the installed Tunix has a defect, mended or not.

    Args:
      name: Id of the defect.

    Returns:
      What its probe finds; without one, what the ledger says of the release.
    """
    return name in present() if defect(name).probe else expected(name)


def expected(name: str) -> bool:
    """Tells whether the ledger says that the installed release has a defect.

    Args:
      name: Id of the defect.

    Returns:
      Whether it does. A release that the ledger does not know is taken for the
      newest that it does.
    """
    version = installed_version()
    return (version if version in SUPPORTED else SUPPORTED[-1]) in defect(name).releases


def defect(name: str) -> Defect:
    """Gives the entry of an id.

    Args:
      name: The id.

    Returns:
      The entry.

    Raises:
      HarnessError: There is none.
    """
    for each in DEFECTS:
        if each.id == name:
            return each
    known = ", ".join(each.id for each in DEFECTS)
    raise errors.HarnessError(f"the ledger has no entry '{name}': use one of {known}")


def reproduction(name: str) -> str:
    """Gives the source of a defect's reproduction, which runs on Tunix alone.

    Args:
      name: Id of the defect.

    Returns:
      A Python script; it ends with exit code 0 where the defect shows, 1 where not.
    """
    file = importlib.resources.files("harness.upstream.reproductions")
    return (file / f"{defect(name).id.replace('-', '_')}.py").read_text()
