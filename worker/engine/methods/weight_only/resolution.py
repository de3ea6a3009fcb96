"""What the `auto` of a weight-only recipe becomes, and what cannot be combined."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.domain.errors import Refused
from app.domain.recipe import WeightOnly
from worker.engine.choices.resolve import resolve, unsupported

TABLES = frozenset({"nf4", "fp4"})
SAMPLED = frozenset({"gptq", "adaround", "awq"})
_INTEGER_KERNELS_OF_TWO_BITS = frozenset({32, 64, 128})
_FEW_BITS = 4
_GRIDS_ALONE = {
    "hqq": "it moves zero points, and these formats have none",
    "gptq": "it rounds to evenly spaced values, and these formats have others",
    "adaround": "it rounds to evenly spaced values, and these formats have others",
}
_BITS_OF = {"ternary": 2, "nf4": 4, "fp4": 4}
Choices = dict[str, tuple[Any, str]]


def resolve_blocks(recipe: WeightOnly, *, has_samples: bool) -> tuple[WeightOnly, list[str]]:
    """The recipe without `auto`, but for an `accuracy_level` that is to be measured, and the reasons.

    Raises:
        Refused: `no_calibration_data` or `unsupported_option`.
    """
    if recipe.algorithm in SAMPLED and not has_samples:
        detail = f"{recipe.algorithm} needs calibration samples: add a dataset to the job."
        raise Refused("no_calibration_data", detail)
    form, reasons = resolve({"number_format": recipe.number_format}, _FORMATS)
    _refuse(recipe, form["number_format"])
    bits, why = resolve({"bits": recipe.bits}, {"bits": _bits(form["number_format"])})
    asked = {name: getattr(recipe, name) for name in ("algorithm", "block_size", "symmetric", "embeddings")}
    more, whys = resolve(asked, _choices(form["number_format"], bits["bits"], has_samples=has_samples))
    values = {**form, **bits, **more}
    level, last = _level(recipe, values, has_samples=has_samples)
    return replace(recipe, **values, **level), reasons + why + whys + last


_FORMATS: Choices = {"number_format": ("int", "integers have kernels of their own on a CPU")}


def _refuse(recipe: WeightOnly, number_format: str) -> None:
    """What this format cannot be combined with.

    Raises:
        Refused: `unsupported_option`.
    """
    bits = _BITS_OF.get(number_format)
    if bits is None:
        return
    if recipe.bits not in {"auto", bits}:
        raise unsupported("bits", recipe.bits, f"{number_format} has {bits} bits", "leave bits out")
    if recipe.symmetric is False:
        why = f"{number_format} has no zero points"
        raise unsupported("symmetric", recipe.symmetric, why, "leave symmetric out")
    if number_format not in TABLES:
        return
    if recipe.algorithm in _GRIDS_ALONE:
        why, instead = _GRIDS_ALONE[recipe.algorithm], "use rtn, kquant, or awq with calibration samples"
        raise unsupported("algorithm", recipe.algorithm, why, instead)
    if recipe.accuracy_level not in {"auto", 0} or recipe.overrides:
        field = "overrides" if recipe.overrides else "accuracy_level"
        value = "set" if recipe.overrides else recipe.accuracy_level
        raise unsupported(field, value, "MatMulBnb4 computes in float only", f"leave {field} out, or use int")


def _bits(number_format: str) -> tuple[int, str]:
    if number_format in _BITS_OF:
        return _BITS_OF[number_format], f"{number_format} has so many"
    return 4, "half the bytes of 8 at little loss"


def _choices(number_format: str, bits: int, *, has_samples: bool) -> Choices:
    shared: Choices = {
        "block_size": (32, "an outlier spoils no more than 32 values, and integer kernels take such blocks"),
        "embeddings": (True, "tables are often most of the bytes"),
    }
    if number_format in TABLES:
        return {**shared, "algorithm": _for_table(has_samples=has_samples), "symmetric": _NO_ZEROS}
    if bits > _FEW_BITS:
        return {**shared, **_EIGHT_BITS}
    symmetries = {
        True: (True, "at 2 bits a zero point wins nothing that the sign of the scale does not"),
        False: (False, "zero points cost 3 % of the bytes and win half a decibel"),
    }
    symmetric = _NO_ZEROS if number_format == "ternary" else symmetries[bits < _FEW_BITS]
    return {**shared, "algorithm": _for_grid(has_samples=has_samples), "symmetric": symmetric}


_NO_ZEROS = (True, "the format has no zero points")
_EIGHT_BITS: Choices = {
    "algorithm": ("rtn", "8 bits are so fine that other roundings win nothing"),
    "symmetric": (True, "8 bits need no zero points"),
}


def _for_grid(*, has_samples: bool) -> tuple[str, str]:
    if has_samples:
        return "gptq", "there are calibration samples, which tell it which errors matter"
    return "hqq", "there are no calibration samples; it needs none"


def _for_table(*, has_samples: bool) -> tuple[str, str]:
    if has_samples:
        return "awq", "there are calibration samples, which tell it which channels matter"
    return "kquant", "there are no calibration samples; it needs none"


def _level(
    recipe: WeightOnly, values: Mapping[str, Any], *, has_samples: bool
) -> tuple[dict[str, Any], list[str]]:
    """The level, or `auto` where samples are to tell it."""
    size = values["block_size"]
    choice = (
        4,
        "products run in int8 kernels, not measured without samples; else weights are widened each run",
    )
    if values["number_format"] in TABLES:
        choice = 0, "MatMulBnb4 computes in float only"
    elif values["bits"] == 2 and size not in _INTEGER_KERNELS_OF_TWO_BITS:  # noqa: PLR2004
        choice = 0, f"2-bit integer kernels take blocks of 32, 64 or 128, not {size}"
    elif has_samples:
        return {}, []
    return resolve({"accuracy_level": recipe.accuracy_level}, {"accuracy_level": choice})
