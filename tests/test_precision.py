"""What is computed, stored, trained and remembered in which dtype."""

import pytest

from harness import recipe as recipe_lib
from harness.errors import HarnessError
from harness.gate import records


def test_what_is_trained_is_float32_unless_asked_otherwise():
    precision = recipe_lib.load("gemma3-1b", assignments=["model.dtype=bfloat16"]).precision
    assert precision.trained_dtype == precision.moments_dtype == "float32"
    assert precision.accumulators_dtype == "float32"
    asked = ("precision.trained=bfloat16", "precision.moments=bfloat16")
    precision = recipe_lib.load("tiny", assignments=asked).precision
    assert (precision.trained_dtype, precision.moments_dtype) == ("bfloat16", "bfloat16")
    assert precision.accumulators_dtype == "float32"


@pytest.mark.parametrize(
    "assignments",
    [
        ["precision.moments=bfloat16", "rollout.dtype=bfloat16"],
        ["critic.lora.rank=8"],
        ["critic.lora.rank=8", "critic.lora=none"],
    ],
)
def test_toml_gives_the_fields_back(assignments):
    recipe = recipe_lib.load("tiny", assignments=assignments)
    assert recipe_lib.from_toml(recipe_lib.to_toml(recipe)) == recipe
    assert (recipe.critic.lora is None) == (assignments[-1] != "critic.lora.rank=8")


@pytest.mark.parametrize("field", ["precision.trained", "precision.moments", "rollout.dtype"])
def test_another_dtype_is_refused_by_its_name(field):
    with pytest.raises(HarnessError, match=rf"^recipe: {field}: .*'float32' or 'bfloat16'"):
        recipe_lib.load("tiny", assignments=[f"{field}=float16"])


def test_a_baseline_from_before_the_fields_is_comparable():
    tree = recipe_lib.to_dict(recipe_lib.load("tiny"))
    names = records.flat(tree, "recipe")
    assert not [name for name in names if "precision" in name or "critic.lora" in name]
    assert "recipe.rollout.dtype" not in names
