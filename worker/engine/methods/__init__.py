"""Quantize a prepared model by a recipe: an explicit table from recipe to function."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from app.domain.recipe import DynamicInt8, Recipe, StaticInt8
from worker.engine.calibrate import Statistics
from worker.engine.load import load_model, save_model
from worker.engine.methods.dynamic_int8 import dynamic_int8
from worker.engine.methods.static_int8 import static_int8
from worker.engine.methods.tidy import tidy

Method = Callable[
    [onnx.ModelProto, Recipe, str, Statistics | None], tuple[onnx.ModelProto, Recipe, list[str]]
]

METHODS: dict[type, Callable[..., tuple[onnx.ModelProto, Recipe, list[str]]]] = {
    DynamicInt8: dynamic_int8,
    StaticInt8: static_int8,
}


@dataclass(frozen=True)
class Quantized:
    """What a recipe became: no `auto` is left, and `reasons` say why, and what stayed float."""

    recipe: Recipe
    reasons: tuple[str, ...]


def quantize(model: Path, out: Path, recipe: Recipe, isa: str, statistics: Statistics | None) -> Quantized:
    """Write the quantized model to `out`. Same model, recipe, target and statistics: same bytes.

    Args:
        model: the prepared float model.
        out: where the quantized model goes.
        recipe: how to quantize; `auto` is resolved by model and target.
        isa: where it will run, a key of `app.domain.target.RULES`.
        statistics: of calibration on the prepared model; needed by static recipes.

    Raises:
        Refused: `nothing_to_quantize`, `selection_matches_nothing`, `no_calibration_data`, or
            `invalid_model` when the result would not be a valid model.
    """
    source = load_model(model)
    quantized, resolved, reasons = METHODS[type(recipe)](source, recipe, isa, statistics)
    save_model(tidy(quantized, load_model(model)), out)
    return Quantized(resolved, tuple(reasons))


__all__ = ["METHODS", "Quantized", "quantize"]
