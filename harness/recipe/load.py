"""A recipe from a preset, a TOML file and assignments; and its text."""

import json
import pathlib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import pydantic
import tomli_w

from harness.errors import HarnessError
from harness.recipe.schema import Recipe

_FOLDER = pathlib.Path(__file__).parents[1] / "presets"
# Laid over the tiny preset where GSM8K is asked of it, whose questions are ten times as long.
_TINY_ON_GSM8K = "tiny-gsm8k"
PRESETS = tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))

# TOML has no null: a field that can be off is written, and read, as this text.
_NONE = "none"

_ADAPTER = pydantic.TypeAdapter(Recipe)


def load(
    preset: str = "tiny",
    *,
    toml: str | pathlib.Path | None = None,
    assignments: Iterable[str] = (),
    source: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read a recipe: preset, then data source, then TOML, then assignments.

    Args:
      preset: One of `PRESETS`.
      toml: A TOML file with any part of the tree.
      assignments: `group.field=value` strings; the value is TOML, and text
        that is not TOML is taken as a string.
      source: `data.source`; on the tiny preset a GSM8K source also brings the
        lengths and sizes that its longer questions need.
      overrides: Nested mapping, applied last.

    Returns:
      The validated recipe.

    Raises:
      HarnessError: An unknown preset or field, or a value against the rules.
    """
    if preset not in PRESETS:
        raise HarnessError(f"unknown preset '{preset}': use one of {', '.join(PRESETS)}")
    layers: list[Mapping[str, Any]] = [_read_toml(toml)] if toml is not None else []
    layers += [_parse_assignment(text) for text in assignments]
    layers += [overrides] if overrides else []
    if source is not None:
        layers.append({"data": {"source": source}})
    asked = _merged({}, layers)
    source = asked.get("data", {}).get("source") if isinstance(asked.get("data"), dict) else None
    if preset == "tiny" and isinstance(source, str) and source != "arithmetic":
        preset = _TINY_ON_GSM8K
    return from_dict(_merged(_preset(preset), [asked]))


def _preset(name: str) -> dict[str, Any]:
    """Read a preset, over the one that it extends."""
    tree = _read_toml(_FOLDER / f"{name}.toml")
    base = tree.pop("extends", None)
    return _merged(_preset(base), [tree]) if base else tree


def from_dict(tree: Mapping[str, Any]) -> Recipe:
    """Validate a nested mapping, as TOML or JSON gives it.

    Args:
      tree: Any part of the tree; what is absent takes the reference's value,
        and the text `none` turns off what can be off.

    Returns:
      The recipe.

    Raises:
      HarnessError: An unknown field, a wrong type or a value against the
        rules; the message names field and rule.
    """
    try:
        return _ADAPTER.validate_json(json.dumps(_text_as_none(tree), default=str))
    except pydantic.ValidationError as error:
        raise HarnessError(f"recipe: {_describe(error)}") from None


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the whole tree as plain JSON values, tuples as lists."""
    return _ADAPTER.dump_python(recipe, mode="json")


def to_toml(recipe: Recipe) -> str:
    """Write the whole tree as TOML; a field that is off is the string `none`."""
    return tomli_w.dumps(_none_as_text(to_dict(recipe)))


def from_toml(text: str) -> Recipe:
    """Read what `to_toml` wrote, or any part of it.

    Args:
      text: TOML; what is absent takes the reference's value.

    Returns:
      The recipe.

    Raises:
      HarnessError: As `from_dict`, or the text is not TOML.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise HarnessError(f"recipe: not valid TOML: {error}") from None
    return from_dict(tree)


def replace(recipe: Recipe, *assignments: str) -> Recipe:
    """Return the recipe with `group.field=value` assignments applied.

    Args:
      recipe: The recipe to start from.
      *assignments: As in `load`.

    Returns:
      A new, validated recipe.

    Raises:
      HarnessError: As `load`.
    """
    return from_dict(_merged(to_dict(recipe), [_parse_assignment(a) for a in assignments]))


def _read_toml(path: str | pathlib.Path) -> dict[str, Any]:
    try:
        return tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(
            f"recipe file {path} cannot be read: {error.strerror or error}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HarnessError(f"recipe file {path} is not valid TOML: {error}") from None


def _parse_assignment(text: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise HarnessError(f"'{text}' is not an assignment: write group.field=value")
    raw = raw.strip()
    try:
        value: Any = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    for name in reversed(names):
        value = {name: value}
    return value


def _merged(tree: Mapping[str, Any], layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    result = dict(tree)
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            if isinstance(value, Mapping) and (below is None or isinstance(below, Mapping)):
                result[key] = _merged(below or {}, [value])
            else:
                result[key] = value
    return result


def _none_as_text(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _none_as_text(value)
        if isinstance(value, Mapping)
        else _NONE
        if value is None
        else value
        for key, value in tree.items()
    }


def _text_as_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _text_as_none(value)
        if isinstance(value, Mapping)
        else None
        if value == _NONE
        else value
        for key, value in tree.items()
    }


def _describe(error: pydantic.ValidationError) -> str:
    lines = []
    for entry in error.errors():
        field = ".".join(str(part) for part in entry["loc"])
        message = entry["msg"].removeprefix("Value error, ")
        if entry["type"] == "unexpected_keyword_argument":
            message = "no such field"
        lines.append(f"{field}: {message}" if field else message)
    return "; ".join(lines)
