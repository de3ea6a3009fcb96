"""Recipes and job specs as requests give them."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from app.api.schemas.values import Labels
from app.domain.job import JobSpec
from app.domain.recipe import (
    FORBID_UNKNOWN,
    BFloat16,
    DynamicInt8,
    Float16,
    Imported,
    Mixed,
    StaticInt8,
    WeightOnly,
)

AnyRecipe = Annotated[
    DynamicInt8 | StaticInt8 | Mixed | WeightOnly | Float16 | BFloat16, Field(discriminator="method")
]


ShownRecipe = Annotated[
    DynamicInt8 | StaticInt8 | Mixed | WeightOnly | Float16 | BFloat16 | Imported,
    Field(discriminator="method"),
]


@dataclass(frozen=True, kw_only=True)
class JobCreate(JobSpec):
    """A JobSpec as requests give it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    recipes: tuple[AnyRecipe, ...] = field(default=(), metadata={"max_length": 100})
    shapes: dict[str, Annotated[int, Field(ge=1, le=65536)]] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SpecWithoutIds(JobCreate):
    """The `spec` part of the one-shot: a JobSpec whose version and datasets come with it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    version: Literal[""] = ""
