"""What every section of a recipe is built from."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Auto = Literal["auto"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def as_tuple(value: Any) -> Any:
    """YAML has lists."""
    return tuple(value) if isinstance(value, list) else value


def as_number(value: Any) -> Any:
    """YAML reads 1e-3, which has no point, as text; what is no number is for pydantic to say."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Texts = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Number = Annotated[float, BeforeValidator(as_number)]


def seconds(default: float, description: str) -> Any:
    return Field(default, gt=0.0, allow_inf_nan=False, description=description)


def positive_or_auto(value: Any) -> Any:
    """Before pydantic looks at it: its own errors name each alternative. Raises ValueError."""
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"is {value!r}; it must be a whole number of at least 1, or auto")
    return value
