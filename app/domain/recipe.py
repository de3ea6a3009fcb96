"""How to quantize: one frozen dataclass per method, told apart by `method`.

`"auto"` (the default of every field) is resolved by model and target; results show what it became.
Unknown fields are refused wherever a recipe is parsed.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Auto = Literal["auto"]
FORBID_UNKNOWN: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Nodes by operator type or by name; both take globs, and one that matches nothing is an error."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    op_types: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """How a tensor's range is read from the calibration statistics."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    method: Literal["minmax"] = "minmax"


@dataclass(frozen=True, kw_only=True)
class DynamicInt8:
    """int8 weights; activations are quantized as they come, at run time. Needs no data."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    method: Literal["dynamic_int8"] = "dynamic_int8"
    weight: Literal["auto", "int8", "uint8"] = "auto"
    per_channel: bool | Auto = "auto"
    reduce_range: bool | Auto = "auto"
    include: Selection = field(default_factory=Selection)
    exclude: Selection = field(default_factory=Selection)


@dataclass(frozen=True, kw_only=True)
class StaticInt8:
    """int8 weights and activations with ranges from calibration data, as QDQ."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    method: Literal["static_int8"] = "static_int8"
    format: Literal["qdq"] = "qdq"
    activation: Literal["auto", "uint8", "int8"] = "auto"
    weight: Literal["auto", "int8", "uint8"] = "auto"
    per_channel: bool | Auto = "auto"
    reduce_range: bool | Auto = "auto"
    ranges: Ranges = field(default_factory=Ranges)
    include: Selection = field(default_factory=Selection)
    exclude: Selection = field(default_factory=Selection)


Recipe = DynamicInt8 | StaticInt8


def needs_calibration(recipe: Recipe) -> bool:
    """Whether this recipe reads activation ranges from calibration data."""
    return isinstance(recipe, StaticInt8)


def title(recipe: Recipe) -> str:
    """A short name for people: `static int8, minmax`."""
    match recipe:
        case DynamicInt8():
            return "dynamic int8"
        case StaticInt8():
            return f"static int8, {recipe.ranges.method}"
