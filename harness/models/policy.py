"""The policy that a run begins with."""

import warnings
from collections.abc import Callable

import jax
from tunix.models.gemma3 import model as gemma3

from harness import recipe as recipe_lib
from harness.models import gemma, kaggle


def make_policy(
    recipe: recipe_lib.Recipe,
    mesh: jax.sharding.Mesh,
    report: Callable[[str], None] = warnings.warn,
) -> gemma3.Gemma3:
    """Return the policy before LoRA: random, or from the checkpoint.

    Args:
      recipe: The model and the seed.
      mesh: Devices to lay the weights over.
      report: Called with a line where the checkpoint's dtype is not the model's.

    Returns:
      The model.

    Raises:
      HarnessError: The checkpoint cannot be used.
    """
    if recipe.model.weights == "checkpoint":
        return gemma.load_gemma(kaggle.local(recipe, report).model, mesh, report)
    return gemma.random_gemma(recipe.model, mesh, recipe.seed)
