"""The page of every field of a recipe, read from the schema."""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

import pydantic

from harness import recipe as recipe_lib
from harness.docs import markdown

_NUMBERS = (int, float, str, bool)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A type annotation, taken apart.

    Attributes:
      names: The types and literals that are allowed, as Markdown.
      rules: What a value must obey besides, as Markdown.
    """

    names: tuple[str, ...]
    rules: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The allowed types as a phrase."""
        return ", ".join(self.names[:-1]) + (" or " if self.names[1:] else "") + self.names[-1]


def page() -> str:
    """Return the page: a table for each group of fields."""
    blocks = [
        "Every hyper-parameter of a recipe. A field is set by `--set group.field=value`, in a "
        "TOML file given to `--recipe`, or by `harness.recipe.load(assignments=[...])`; all "
        "three obey the same rules. The defaults are the values of the preset `gemma3-1b`; "
        "*presets* lists the values of the other presets where they differ. A field that may be "
        "`none` is turned off by that text.",
    ]
    presets = _presets()
    for path, cls in _groups(recipe_lib.Recipe):
        title = f"{'.'.join(path)}" if path else "Recipe"
        blocks += [f"## {title}", markdown.summary(cls), _table(path, cls, presets)]
    return markdown.page("Recipe fields", *blocks)


def kind(annotation: Any) -> Kind:
    """Take a type annotation apart.

    Args:
      annotation: What a field of the schema is annotated with.

    Returns:
      Its types and its rules.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        below = kind(arguments[0])
        rules = [rule for each in arguments[1:] for rule in _rules(each)]
        return Kind(below.names, (*below.rules, *rules))
    if origin in (types.UnionType, typing.Union):
        parts = [kind(each) for each in arguments]
        return Kind(
            tuple(name for each in parts for name in each.names),
            tuple(rule for each in parts for rule in each.rules),
        )
    if origin is typing.Literal:
        return Kind(tuple(markdown.code(each) for each in arguments))
    if origin is tuple:
        return Kind((f"list of {kind(arguments[0]).text}",))
    if origin is dict:
        return Kind(("table by name",))
    if annotation is types.NoneType:
        return Kind(("`none`",))
    return Kind((annotation.__name__ if annotation in _NUMBERS else "table",))


def _rules(field: Any) -> Iterator[str]:
    constraints = field.metadata if isinstance(field, pydantic.fields.FieldInfo) else [field]
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    for each in constraints:
        for name, sign in signs.items():
            if hasattr(each, name):
                yield f"{sign} {getattr(each, name)}"
        if length := getattr(each, "min_length", None):
            yield f"at least {length} long"
        if pattern := getattr(each, "pattern", None):
            yield f"matches {markdown.code(pattern)}"


def _groups(cls: type, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type]]:
    yield path, cls
    for name, annotation in typing.get_type_hints(cls).items():
        for each in (annotation, *typing.get_args(annotation)):
            if dataclasses.is_dataclass(each) and isinstance(each, type):
                steps = (*path, name)
                steps += ("NAME",) if typing.get_origin(annotation) is dict else ()
                yield from _groups(each, steps)


def _presets() -> dict[str, dict[str, Any]]:
    names = [name for name in recipe_lib.PRESETS if name != recipe_lib.Recipe().name]
    return {name: recipe_lib.to_dict(recipe_lib.load(name)) for name in names}


def _table(path: tuple[str, ...], cls: type, presets: dict[str, dict[str, Any]]) -> str:
    hints = typing.get_type_hints(cls, include_extras=True)
    described = markdown.attributes(cls)
    lines = []
    for field in dataclasses.fields(cls):
        found = kind(hints[field.name])
        leaf = found.names[0] != "table"
        default = _default(field)
        lines.append(
            [
                markdown.code(".".join((*path, field.name))),
                found.text,
                _value(default) if leaf and default is not dataclasses.MISSING else "",
                _differing((*path, field.name), default, presets) if leaf else "",
                ", ".join(dict.fromkeys(found.rules)),
                described.get(field.name, ""),
            ]
        )
    header = ("field", "type", "default", "presets", "constraint", "description")
    return markdown.table(header, lines)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return json.loads(json.dumps(made, default=dataclasses.asdict))
    if field.default is dataclasses.MISSING:
        return field.default
    default = field.default
    # A pydantic dataclass wraps its defaults.
    default = default.default if isinstance(default, pydantic.fields.FieldInfo) else default
    return list(default) if isinstance(default, tuple) else default


def _differing(path: tuple[str, ...], default: Any, presets: dict[str, dict[str, Any]]) -> str:
    if default is dataclasses.MISSING:
        return ""
    found = {}
    for name, tree in presets.items():
        group: Any = tree
        for step in path[:-1]:
            group = group.get(step) if isinstance(group, dict) else None
        # Absent where a preset turns the whole group off.
        if isinstance(group, dict) and group[path[-1]] != default:
            found[name] = group[path[-1]]
    if "tiny on GSM8K" in found and found["tiny on GSM8K"] == found.get("tiny"):
        del found["tiny on GSM8K"]
    return "<br>".join(f"{name}: {_value(value)}" for name, value in found.items())


def _value(value: Any) -> str:
    if value is None:
        return "`none`"
    if isinstance(value, dict):
        return "<br>".join(
            f"{markdown.code(name)}: {_fields(each)}" for name, each in value.items()
        )
    return markdown.code(value if isinstance(value, str) else json.dumps(value)).replace(
        "\n", "\\n"
    )


def _fields(value: Any) -> str:
    return ", ".join(f"{name} {'none' if each is None else each}" for name, each in value.items())
