"""Which known issues the installed Tunix has, and which of them are fixed."""

import functools
import importlib.metadata
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

from harness import errors
from harness.upstream.fixes.known_issue import KnownIssue
from harness.upstream.fixes.registry import ISSUES as KNOWN_ISSUES
from harness.upstream.fixes.registry import script
from harness.upstream.selection import STOCK, Fixes

Mode = Literal["patched", "stock"]
SUPPORTED = ("0.1.6", "0.1.7")


def installed_version() -> str:
    """Return the version of the installed Tunix.

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
    """Probe the installed Tunix and return the ids of the issues found.

    Returns:
      Ids in the registry's order, of the issues that have a probe.

    Raises:
      HarnessError: A probe fails: this Tunix is not as any that it was written for.
    """
    found: dict[object, bool] = {}
    with warnings.catch_warnings():
        # Some give themselves away by these very warnings.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        for issue in KNOWN_ISSUES:
            if issue.probe and issue.probe not in found:
                found[issue.probe] = _probed(issue.id, issue.probe)
    return tuple(issue.id for issue in KNOWN_ISSUES if issue.probe and found[issue.probe])


def _probed(name: str, probe: Callable[[], bool]) -> bool:
    try:
        return probe()
    except Exception as error:  # a Tunix that changed may fail anyhow, and is not known to be right
        raise errors.HarnessError(
            f"the probe of '{name}' does not show whether Tunix {installed_version()} has it "
            f"({type(error).__name__}: {error}): please report this, and install google-tunix "
            f"{' or '.join(SUPPORTED)}"
        ) from error


def choose_fixes(mode: Mode, selection: str = "all") -> Fixes:
    """Return the fixes to put in place, of the issues that are found in the installed Tunix.

    Args:
      mode: `patched`, or `stock` for Tunix exactly as installed.
      selection: `all`, `none`, `all,-ID,-ID` or `ID,ID`. Issues with one fix in common go
        together.

    Returns:
      The fixes.

    Raises:
      HarnessError: The selection names an issue that is not known, has no fix, is not in this
        Tunix, or is avoided by the engine; or it is given with `stock`.
    """
    if mode == "stock":
        if selection != "all":
            raise errors.HarnessError(
                f"fixes '{selection}' cannot be chosen for stock Tunix, which has none: use the "
                "patched mode, or leave the fixes out"
            )
        return STOCK
    found = present()
    fixed = [each for each in KNOWN_ISSUES if each.fix and each.id in found]
    avoided = tuple(each.id for each in fixed if each.engine)
    every = [each for each in fixed if not each.engine]
    chosen = _chosen(selection, [each.id for each in every])
    return Fixes(tuple(each.id for each in every if each.fix_id in chosen), avoided)


def _chosen(selection: str, every: Sequence[str]) -> set[str]:
    """Return the fixes that a selection names, each by the id of the issue it is named after."""
    first, *rest = words = [each.strip() for each in selection.split(",")]
    if first == "none" and not rest:
        return set()
    if first != "all":
        for each in words:
            _check_selectable(each)
            if each not in every:
                raise errors.HarnessError(
                    f"fixes: Tunix {installed_version()} does not have '{each}': leave it out"
                )
        return {known_issue(each).fix_id for each in words}
    chosen = {known_issue(each).fix_id for each in every}
    for each in rest:
        if not each.startswith("-"):
            raise errors.HarnessError(
                f"fixes: '{each}' after 'all' takes nothing away: write all,-{each}, or the ids "
                "that are wanted without 'all'"
            )
        _check_selectable(each[1:])
        chosen.discard(known_issue(each[1:]).fix_id)
    return chosen


def _check_selectable(name: str) -> None:
    found = known_issue(name)
    if not found.fix:
        raise errors.HarnessError(f"fixes: '{name}' has no fix: leave it out")
    if found.engine:
        raise errors.HarnessError(
            f"fixes: '{name}' is avoided by the engine, not by a fix that could be chosen: leave "
            "it out; --upstream stock has neither"
        )


def standing(name: str) -> bool:
    """Return whether the installed Tunix has an issue, fixed or not.

    Args:
      name: Id of the issue.

    Returns:
      What its probe finds; without one, what the registry says of the release.
    """
    return name in present() if known_issue(name).probe else expected(name)


def expected(name: str) -> bool:
    """Return whether the registry says that the installed release has an issue.

    Args:
      name: Id of the issue.

    Returns:
      Whether it does. A release that the registry does not know is taken for the
      newest that it does.
    """
    version = installed_version()
    return (version if version in SUPPORTED else SUPPORTED[-1]) in known_issue(name).releases


def known_issue(name: str) -> KnownIssue:
    """Return the entry of an id.

    Args:
      name: The id.

    Returns:
      The entry.

    Raises:
      HarnessError: There is none.
    """
    for each in KNOWN_ISSUES:
        if each.id == name:
            return each
    known = ", ".join(each.id for each in KNOWN_ISSUES)
    raise errors.HarnessError(f"there is no known issue '{name}': use one of {known}")


def reproduction(name: str) -> str:
    """Return a script that reproduces an issue, and runs on Tunix alone.

    Args:
      name: Id of the issue.

    Returns:
      A Python script; it ends with exit code 0 where the issue shows, 1 where not.
    """
    return script(known_issue(name).id)
