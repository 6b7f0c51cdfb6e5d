"""The base class and the field types that all sections of a recipe share."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Auto = Literal["auto"]


class Section(BaseModel):
    """A frozen mapping of known keys; types are not coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def as_tuple(value: Any) -> Any:
    """Convert a YAML list; return any other value as it is."""
    return tuple(value) if isinstance(value, list) else value


def as_number(value: Any) -> Any:
    """Convert text such as 1e-3, which YAML does not read as a number; leave other errors to pydantic."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Texts = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Number = Annotated[float, BeforeValidator(as_number)]


def seconds_field(default: float, description: str) -> Any:
    """A field for a positive, finite number of seconds."""
    return Field(default, gt=0.0, allow_inf_nan=False, description=description)


def positive_or_auto(value: Any) -> Any:
    """Return a positive integer or "auto", else raise ValueError: pydantic would report one error per alternative."""
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"is {value!r}; it must be a whole number of at least 1, or auto")
    return value
