"""A change of one field of a table keeps its other fields, by whatever way it comes in."""

import dataclasses
from typing import Any

import pytest

from harness import recipe as recipe_lib
from harness.errors import HarnessError

TABLES = {
    "a group": ("lora", {"rank": 3}),
    "a table in a group": ("data.arithmetic", {"seed": 5}),
    "a named generation": ("evaluation.generations.standard", {"temperature": 0.5}),
    "a field that can be off": ("evaluation.generations.standard", {"top_k": "none"}),
}


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def toml(tmp_path, path: str, fields: dict[str, Any]) -> str:
    file = tmp_path / "part.toml"
    lines = [f"{name} = {value!r}" for name, value in fields.items()]
    file.write_text("\n".join([f"[{path}]", *lines]) + "\n")
    return str(file)


WAYS = {
    "assignment": lambda preset, tmp_path, path, fields: recipe_lib.load(
        preset, assignments=[f"{path}.{name}={value}" for name, value in fields.items()]
    ),
    "inline table": lambda preset, tmp_path, path, fields: recipe_lib.load(
        preset,
        assignments=[f"{path}={{{', '.join(f'{n} = {v!r}' for n, v in fields.items())}}}"],
    ),
    "TOML": lambda preset, tmp_path, path, fields: recipe_lib.load(
        preset, toml=toml(tmp_path, path, fields)
    ),
    "override": lambda preset, tmp_path, path, fields: recipe_lib.load(
        preset, overrides=nested(path, fields)
    ),
    "replace": lambda preset, tmp_path, path, fields: recipe_lib.replace(
        recipe_lib.load(preset), *[f"{path}.{name}={value}" for name, value in fields.items()]
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("preset", sorted(recipe_lib.PRESETS))
@pytest.mark.parametrize(("path", "fields"), TABLES.values(), ids=TABLES)
def test_one_field_is_changed_and_no_other(way, preset, path, fields, tmp_path):
    before = recipe_lib.to_dict(recipe_lib.load(preset))
    table = before
    for name in path.split("."):
        table = table[name]
    table |= {name: None if value == "none" else value for name, value in fields.items()}
    assert recipe_lib.to_dict(WAYS[way](preset, tmp_path, path, fields)) == before


def test_a_part_of_a_table_without_a_preset_is_laid_over_the_reference():
    part = "[evaluation.generations.standard]\ntemperature = 0.5\n"
    reference = recipe_lib.from_dict({})
    want = dataclasses.replace(reference.evaluation.generations["standard"], temperature=0.5)
    found = recipe_lib.from_toml(part)
    assert found.evaluation.generations == {**reference.evaluation.generations, "standard": want}


def test_changes_of_several_ways_add_up(tmp_path):
    path = "evaluation.generations.standard"
    found = recipe_lib.load(
        "tiny",
        toml=toml(tmp_path, path, {"temperature": 0.5, "top_p": 0.5}),
        assignments=[f"{path}.top_p=0.25"],
        overrides=nested(path, {"top_k": 7}),
    )
    assert found.evaluation.generations["standard"] == recipe_lib.Generation(
        temperature=0.5, top_k=7, top_p=0.25
    )


def test_a_generation_of_another_name_must_be_complete():
    mine = "evaluation.generations.mine"
    with pytest.raises(HarnessError) as refused:
        recipe_lib.load("tiny", assignments=[f"{mine}.temperature=0.5"])
    assert str(refused.value) == (
        f"recipe: {mine}.top_k: Field required; {mine}.top_p: Field required"
    )
    whole = f"{mine}={{temperature = 0.5, top_k = 3, top_p = 1.0}}"
    found = recipe_lib.load("tiny", assignments=[whole, "evaluation.generation=mine"])
    assert sorted(found.evaluation.generations) == ["greedy", "liberal", "mine", "standard"]
    later = recipe_lib.replace(found, f"{mine}.top_k=none")
    assert later.evaluation.generations["mine"].top_k is None
    assert recipe_lib.from_toml(recipe_lib.to_toml(later)) == later


@pytest.mark.parametrize(
    ("assignment", "output"),
    [
        ("evaluation.generations.standard.heat=1", "standard.heat: no such field"),
        ("evaluation.generations.standard.top_p=2", "standard.top_p: Input should be less"),
        ("evaluation.generations.standard=3", "standard: Input should be an object"),
        ("evaluation.generations=3", "evaluation.generations: Input should be an object"),
    ],
)
def test_what_is_no_change_of_a_generation_is_refused(assignment, output):
    with pytest.raises(HarnessError) as refused:
        recipe_lib.load("tiny", assignments=[assignment])
    assert output in str(refused.value)


def test_a_recipe_made_in_python_and_read_back_is_the_same():
    mine = recipe_lib.Generation(temperature=0.5, top_k=None, top_p=1.0)
    made = recipe_lib.Recipe(evaluation=recipe_lib.Evaluation(generations={"mine": mine}))
    assert made.evaluation.generations["mine"] == mine
    assert recipe_lib.from_dict(recipe_lib.to_dict(made)) == made
