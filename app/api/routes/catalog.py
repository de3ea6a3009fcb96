"""What there is to choose from: targets and recipes."""

from dataclasses import fields
from typing import Any, get_args

from fastapi import APIRouter
from pydantic import BaseModel, Field, TypeAdapter

from app.api.deps import Who
from app.api.schemas.specs import AnyRecipe
from app.domain.recipe import Recipe, needs_calibration
from app.domain.target import RULES

router = APIRouter()


class TargetRead(BaseModel):
    """An instruction set, and the numeric types that run fast and right on it."""

    isa: str
    activation: str
    weight: str
    reduce_range: bool
    reason: str


class RecipeRead(BaseModel):
    """A method of quantizing: what it is for, its fields with their defaults, and their JSON Schema."""

    method: str
    description: str
    needs_data: bool
    defaults: dict[str, Any]
    json_schema: dict[str, Any] = Field(description="JSON Schema 2020-12 of the whole recipe")


class TargetList(BaseModel):
    """Every target."""

    items: list[TargetRead]


class RecipeList(BaseModel):
    """Every method."""

    items: list[RecipeRead]


@router.get("/targets")
def list_targets(_caller: Who) -> TargetList:
    """The instruction sets that a job may name and what follows from each; `auto` is the measuring host's."""
    rows = [
        TargetRead(
            isa=isa,
            activation=rules.activation,
            weight=rules.weight,
            reduce_range=rules.reduce_range,
            reason=rules.reason,
        )
        for isa, rules in RULES.items()
    ]
    return TargetList(items=rows)


@router.get("/recipes")
def list_recipes(_caller: Who) -> RecipeList:
    """The methods of quantizing that a job may name, with every field, default and limit.

    `auto` is resolved by model and target; a candidate's `recipe` shows what it became.
    """
    return RecipeList(items=[_described(kind) for kind in _kinds()])


def _kinds() -> list[type[Recipe]]:
    """The dataclasses behind the recipes that requests may hold."""
    union = get_args(AnyRecipe)[0]
    return list(get_args(union) or (union,))


def _described(kind: type[Recipe]) -> RecipeRead:
    adapter = TypeAdapter(kind)
    required = {f.name: "ver_…" for f in fields(kind) if f.name == "version"}
    example = adapter.validate_python(required)
    return RecipeRead(
        method=example.method,
        description=" ".join((kind.__doc__ or "").split()),
        needs_data=needs_calibration(example),
        defaults={k: v for k, v in adapter.dump_python(example, mode="json").items() if k not in required},
        json_schema=adapter.json_schema(),
    )
