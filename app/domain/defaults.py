"""The recipes that a job without any gets, by what kind of model it is."""

from app.domain.recipe import DynamicInt8, Float16, Ranges, Recipe, Selection, StaticInt8, WeightOnly
from app.domain.report import Examination

_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_EQUALIZED = StaticInt8(ranges=Ranges(method="mse"), corrections=("equalization",))
_RECIPES: dict[str, tuple[Recipe, ...]] = {
    "convolutional": (StaticInt8(), _EQUALIZED, Float16()),
    "transformer": (DynamicInt8(), StaticInt8(), WeightOnly(bits=8), WeightOnly(bits=4)),
    "recurrent": (DynamicInt8(), WeightOnly(bits=8)),
    "dense": (DynamicInt8(), StaticInt8()),
}


def recipes(examination: Examination, *, has_data: bool) -> tuple[Recipe, ...]:
    """What is worth trying: without data only what needs none, with control flow as for recurrent models."""
    if not has_data:
        return (_dynamic(examination), WeightOnly(), Float16())
    controlled = not _CONTROL_FLOW.isdisjoint(examination.op_types)
    family = "recurrent" if controlled else examination.family
    return _RECIPES.get(family, _RECIPES["dense"])


def _dynamic(examination: Examination) -> Recipe:
    """Without data nothing else makes a convolutional model much smaller: slow as they are, Conv come in.

    See docs/decisions/0036.
    """
    if examination.family != "convolutional":
        return DynamicInt8()
    present = tuple(name for name in _PRODUCTS if name in examination.op_types)
    return DynamicInt8(include=Selection(op_types=present))
