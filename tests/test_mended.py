"""Every property, held to Tunix with its mends."""

import pytest

from harness import upstream
from tests import conformance


@pytest.fixture(scope="module")
def seen(own_cache):
    del own_cache
    yield from conformance.open_observatory("mended")


@pytest.mark.parametrize("each", conformance.FAST, ids=conformance.IDS)
def test_mended_tunix(each, seen):
    conformance.assert_as_the_ledger_says(each, seen)


@pytest.mark.parametrize(("each", "name"), conformance.WRONG)
def test_refused(each, name, seen):
    conformance.assert_refuses(each, name, seen)


def test_what_a_mend_covers_breaks_nothing(seen):
    for each in conformance.FAST:
        assert not any(upstream.defect(name).mend for name in seen.unmended(each)), each.id
