"""The recipes that a job without any gets, by what kind of model it is."""

from app.domain.recipe import DynamicInt8, Float16, Ranges, Recipe, StaticInt8, WeightOnly
from app.domain.report import Examination

_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
_EQUALIZED = StaticInt8(ranges=Ranges(method="mse"), corrections=("equalization",))
# SmoothQuant is not among them: no measurement has shown it to win on a transformer here.
_RECIPES: dict[str, tuple[Recipe, ...]] = {
    "convolutional": (StaticInt8(), _EQUALIZED, Float16()),
    "transformer": (DynamicInt8(), StaticInt8(), WeightOnly(bits=8), WeightOnly(bits=4)),
    "recurrent": (DynamicInt8(), WeightOnly(bits=8)),
    "dense": (DynamicInt8(), StaticInt8()),
}


def recipes(examination: Examination, *, has_data: bool) -> tuple[Recipe, ...]:
    """What is worth trying: without data only what needs none, with control flow as for recurrent models."""
    if not has_data:
        return (DynamicInt8(), WeightOnly(), Float16())
    controlled = not _CONTROL_FLOW.isdisjoint(examination.op_types)
    family = "recurrent" if controlled else examination.family
    return _RECIPES.get(family, _RECIPES["dense"])
