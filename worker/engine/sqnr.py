"""Signal to quantization noise: how it is told, and the least that a result must have."""

import math

from app.domain.recipe import BFloat16, Float16, Mixed, Recipe, StaticInt8, WeightOnly

EXACT_DB = 200.0
FLOAT16_DB = 40.0
BFLOAT16_DB = 30.0
LEAST_DB = {8: 20.0, 4: 8.0, 2: 0.0}  # by bits; at 0 dB the error is as strong as the signal


def sqnr(signal: float, noise: float) -> float:
    """10·log10(signal / noise) in dB, within ±200; an exact match is 200."""
    if not noise:
        return EXACT_DB
    if not signal or math.isinf(noise):
        return -EXACT_DB
    return max(-EXACT_DB, min(EXACT_DB, 10 * math.log10(signal / noise)))


def least_db(recipe: Recipe) -> float | None:
    """The lowest `sqnr_db` that a result of this recipe may have; None for models quantized elsewhere."""
    match recipe:
        case Float16():
            return FLOAT16_DB
        case BFloat16():
            return BFLOAT16_DB
        case WeightOnly():
            few = 2 if recipe.number_format == "ternary" else 4
            return LEAST_DB[few if recipe.bits == "auto" else recipe.bits]
        case StaticInt8() | Mixed():
            return LEAST_DB[4 if recipe.weight == "int4" else 8]
        case _:
            return LEAST_DB[8] if recipe.method == "dynamic_int8" else None
