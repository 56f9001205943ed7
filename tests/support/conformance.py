"""What the tests of both modes share: a context, and what is expected of each property."""

from collections.abc import Iterator
from typing import Any

import pytest

from harness import checks, upstream
from harness.checks import property as property_lib
from harness.checks.context import Context

FAST = checks.select()
IDS = [each.id for each in FAST]
WRONG = [
    pytest.param(each, name, id=f"{each.id}-{name.replace(' ', '-')}")
    for each in FAST
    for name in each.wrong
]
# Where no defect is taken for granted, Tunix as installed is judged as patched Tunix is.
WRONG_BESIDE_DEFECTS = [each for each in WRONG if each.values[0].defects]  # type: ignore[union-attr]
# Defects under which a property has nothing left to refuse: what it looks at is not reported
# at all, or the nucleus that a wrong one lacks is hardly one.
NOTHING_ELSE_TO_SEE = {
    "cached-decode": {"sampler-log-probs-missing"},
    "sampler-tells-its-law": {"sampler-log-probs-missing"},
    "draws-follow-the-law": {"nucleus-beside-top-k"},
}


class Observations:
    """A context whose observations are kept."""

    def __init__(self, mode: upstream.Mode):
        self.context = Context(mode)
        self._observed: dict[str, Any] = {}

    def observe(self, each: property_lib.Property) -> property_lib.Observed:
        if each.id not in self._observed:
            self._observed[each.id] = each.observe(self.context)
        return self._observed[each.id]

    def unfixed(self, each: property_lib.Property) -> list[str]:
        return self.context.unfixed(each.defects)


def open_observations(mode: upstream.Mode) -> Iterator[Observations]:
    made = Observations(mode)
    yield made
    made.context.close()


def assert_as_known(each: property_lib.Property, seen: Observations) -> None:
    """Hold unless a known issue is not fixed; then it breaks by just that."""
    observed, unfixed = seen.observe(each), seen.unfixed(each)
    output = each.judge(observed)
    if not unfixed:
        assert output == []
    else:
        assert output, f"{unfixed} no longer break it: these known issues can go"
        assert each.judge(observed, unfixed) == []


def assert_refuses(each: property_lib.Property, name: str, seen: Observations) -> None:
    """Refuse a wrong observation, whether or not known defects are taken for granted."""
    wrong = each.wrong[name](seen.observe(each))
    assert each.judge(wrong)
    unfixed = seen.unfixed(each)
    if unfixed and not NOTHING_ELSE_TO_SEE.get(each.id, set()) & set(unfixed):
        assert each.judge(wrong, unfixed)
