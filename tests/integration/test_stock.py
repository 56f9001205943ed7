"""Every property, compared with Tunix as it is installed: those of known issues fail alone."""

import pytest

from harness import recipe as recipe_lib
from tests.support import conformance

# The very defect that JAX warns of is there.
pytestmark = pytest.mark.filterwarnings("ignore:scatter inputs have incompatible:FutureWarning")


@pytest.fixture(scope="module")
def seen(own_cache):
    del own_cache
    yield from conformance.open_observations("stock")


# Models are made alike in both modes.
@pytest.mark.parametrize(
    "each", [each for each in conformance.FAST if each.area != "models"], ids=lambda each: each.id
)
def test_stock_tunix(each, seen):
    conformance.assert_as_known(each, seen)


@pytest.mark.parametrize(("each", "name"), conformance.WRONG_BESIDE_DEFECTS)
def test_refused(each, name, seen):
    conformance.assert_refuses(each, name, seen)


def test_a_recipes_summary_has_the_groups_that_are_whitened(seen):
    output = recipe_lib.summarize(seen.context.recipe)
    groups = [len(g.scores) for g in seen.context.trace.groups if not g.evaluation]
    per_mini_batch = len(output.whitening_groups)
    assert groups == list(output.whitening_groups) * (len(groups) // per_mini_batch)
    rolled = list(seen.context.trace.generations)
    evaluated = sum(len(g.scores) for g in seen.context.trace.groups if g.evaluation)
    rows = sum(len(g.prompts) for g in rolled) - evaluated
    assert rows == output.rollouts
