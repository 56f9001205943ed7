"""What the groups of a recipe are made with: a frozen dataclass that validates, and its numbers."""

import dataclasses
from typing import Annotated, Literal, TypeVar, cast, dataclass_transform

import pydantic
from pydantic import Field

_T = TypeVar("_T")
_CONFIG = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,)
)
def frozen(cls: type[_T]) -> type[_T]:
    """Make a class of a recipe's tree: unknown names and wrong types are refused."""
    make = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_CONFIG)
    return cast("type[_T]", make(cls))


PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Dtype = Literal["float32", "bfloat16"]
