"""Values that are checked when they are read, and do not change after that."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from minimagen.errors import UserError, did_you_mean

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Flag:
    """Marks a field that a command-line flag sets; its docstring is the flag's help.

    Attributes:
        short: The short form, without its dash.
        name: What follows the two dashes; the field's name in capitals by default.
        also: The setting's names in other programs, for hints.
    """

    short: str
    name: str | None = None
    also: tuple[str, ...] = ()


class Config(BaseModel):
    """Frozen; an unknown key is an error that names the nearest valid key."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise UserError(
                        f"unknown key {key!r} in the {cls.__name__}"
                        f"{did_you_mean(key, cls.model_fields)} (valid: "
                        f"{', '.join(cls.model_fields)})"
                    )
        return values

    @classmethod
    def read(cls, values: Any, where: str) -> Self:
        """Check ``values`` (parsed JSON); a UserError in one line names ``where`` and the key."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            obvious = first["type"] == "missing" or isinstance(first["input"], dict)
            given = "" if obvious else f", given {first['input']!r}"
            message = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{where}: {key + ': ' if key else ''}{message}{given}") from None
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def replace(self, **changes: Any) -> Self:
        """Return a checked copy with some fields changed."""
        return type(self).read(dict(self) | changes, type(self).__name__)


def whole_number(name: str, value: Any, least: int) -> int:
    """Return ``value`` as an int; a UserError unless it is a whole number of at least ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise UserError(f"`{name}` is {value!r}; give a whole number of at least {least}")
    return number


def per_stage(name: str, value: Any, count: int) -> list[Any]:
    """Return the value of each of ``count`` stages, given one for all or several, one for each.

    An interval (low, high) of numbers is one value.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [value] * count
    value = list(value)
    if name.endswith("_interval") and not any(isinstance(each, Iterable) for each in value):
        return [tuple(value)] * count
    if len(value) != count:
        stages = f"{count} stage{'s' * (count > 1)}"
        raise UserError(f"{name}: {len(value)} values for {stages}; give one, or one each")
    return value
