"""What the tests of plans share: a question to the compiler, and an abstract learner."""

import dataclasses
from typing import Any

from harness import models, upstream
from harness import recipe as recipe_lib
from harness.plan import store
from harness.upstream.instrument import programs
from tests.conftest import small_recipe


def job(*assignments: str, program: str = "logps", sequences: int = 4, **changes: Any) -> store.Job:
    found = store.Job(
        small_recipe(*assignments), upstream.Fixes(("a-fix",)), "v6e-1", program, sequences
    )
    return dataclasses.replace(found, **changes)


def abstract(recipe: recipe_lib.Recipe, mode: Any) -> Any:
    mesh = models.make_mesh(recipe.sharding)
    return programs.abstract_learner(recipe, mesh, upstream.choose_fixes(mode))
