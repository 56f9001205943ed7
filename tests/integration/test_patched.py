"""Every property, held to Tunix with its fixes."""

import pytest

from harness import upstream
from tests.support import conformance


@pytest.fixture(scope="module")
def seen(own_cache):
    del own_cache
    yield from conformance.open_observations("patched")


@pytest.mark.parametrize("each", conformance.FAST, ids=conformance.IDS)
def test_patched_tunix(each, seen):
    conformance.assert_as_known(each, seen)


@pytest.mark.parametrize(("each", "name"), conformance.WRONG)
def test_refused(each, name, seen):
    conformance.assert_refuses(each, name, seen)


def test_what_a_fix_covers_breaks_nothing(seen):
    for each in conformance.FAST:
        assert not any(upstream.known_issue(name).fix for name in seen.unfixed(each)), each.id
