"""The recipes that a job without any gets, by what kind of model it is."""

from app.domain.recipe import DynamicInt8, Recipe, StaticInt8
from app.domain.report import Examination


def recipes(examination: Examination, *, has_data: bool) -> tuple[Recipe, ...]:
    """Convolutional: static. Otherwise dynamic, and static beside it where data allow."""
    if not has_data:
        return (DynamicInt8(),)
    if examination.family == "convolutional":
        return (StaticInt8(),)
    if examination.family == "recurrent":
        return (DynamicInt8(),)
    return (DynamicInt8(), StaticInt8())
