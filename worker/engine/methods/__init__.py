"""Quantize a prepared model by a recipe: an explicit table from recipe to function."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from app.domain.errors import Refused
from app.domain.recipe import BFloat16, DynamicInt8, Float16, Imported, Mixed, Recipe, StaticInt8, WeightOnly
from worker.engine.choices.setting import Setting
from worker.engine.load import load_model, removed_if_refused, save_model
from worker.engine.methods.dynamic_int8 import dynamic_int8
from worker.engine.methods.half import bfloat16, float16
from worker.engine.methods.mixed import mixed
from worker.engine.methods.static_int8 import static_int8
from worker.engine.methods.tidy import tidy
from worker.engine.methods.weight_only import weight_only
from worker.engine.passes.masks import restore_masks
from worker.engine.requirements import refuse_old_runtime

# (prepared model, recipe, setting) → (quantized model, resolved recipe, reasons); the model may be changed.
# A method takes the class of recipe that it is filed under.
Method = Callable[[onnx.ModelProto, Any, Setting], tuple[onnx.ModelProto, Recipe, list[str]]]

METHODS: dict[type, Method] = {
    DynamicInt8: dynamic_int8,
    StaticInt8: static_int8,
    Mixed: mixed,
    WeightOnly: weight_only,
    Float16: float16,
    BFloat16: bfloat16,
}


@dataclass(frozen=True)
class Quantized:
    """What a recipe became: no `auto` is left, and `reasons` say why, and what stayed float."""

    recipe: Recipe
    reasons: tuple[str, ...]


def quantize(model: Path, out: Path, recipe: Recipe, setting: Setting) -> Quantized:
    """Write the quantized model to `out`. Same model, recipe and setting: same bytes.

    Args:
        model: the prepared float model.
        out: where the quantized model goes.
        recipe: how to quantize; `auto` is resolved by model and target.
        setting: where the result will run, and what calibration found.

    Raises:
        Refused: `nothing_to_quantize`, `selection_matches_nothing`, `no_calibration_data`,
            `unsupported_option`, `target_too_old`, or `invalid_model` when the result would not be a valid
            model.
    """
    if isinstance(recipe, Imported):
        raise Refused(
            "unsupported_option",
            "There is nothing to quantize in an imported model: name it among a job's candidates, or hold it "
            "against the float model with `compare`.",
        )
    source = load_model(model)
    if _leaves_sums_float(recipe):
        restore_masks(source)
    quantized, resolved, reasons = METHODS[type(recipe)](source, recipe, setting)
    with removed_if_refused(out):
        save_model(tidy(quantized, load_model(model)), out)
        refuse_old_runtime(out, setting.runtime)
    return Quantized(resolved, tuple(reasons))


def _leaves_sums_float(recipe: Recipe) -> bool:
    stores = isinstance(recipe, Float16) and recipe.compute != "full"
    return stores or isinstance(recipe, DynamicInt8 | WeightOnly)


__all__ = ["METHODS", "Quantized", "Setting", "quantize"]
