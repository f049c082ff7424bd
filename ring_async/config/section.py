"""The base class of all sections of the configuration, and the numbers that its fields are made of."""

from __future__ import annotations

import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

MAX_INT = 2**53
"""Above it JSON readers and floats no longer tell neighbours apart."""

MAX_FLOAT = 1e9
"""Seconds beyond it (32 years) overflow the timers of the operating system."""

PositiveInt = Annotated[int, Field(gt=0, le=MAX_INT)]
NaturalInt = Annotated[int, Field(ge=0, le=MAX_INT)]
PositiveFloat = Annotated[float, Field(gt=0, le=MAX_FLOAT)]
NaturalFloat = Annotated[float, Field(ge=0, le=MAX_FLOAT)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes."""


class Section(BaseModel):
    """Base of all sections: frozen, strict about keys, and `true` is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        numbers = _numbers_in(cls.model_fields[str(info.field_name)].annotation)
        if numbers and _holds_truth(value):
            raise PydanticKnownError("int_type" if int in numbers else "float_type")
        return value


def _numbers_in(annotation: Any) -> set[type]:
    """The number types of a field of numbers, alone or in a tuple or mapping; empty for any other field."""
    if annotation in (int, float):
        return {annotation}
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return _numbers_in(arguments[1])
    if origin is Annotated:
        return _numbers_in(arguments[0])
    if origin in (Union, types.UnionType, tuple):
        return set().union(*map(_numbers_in, arguments))
    return set()


def _holds_truth(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_truth, value.values()))
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_truth, value)))
