"""Every field of a static recipe resolved by model and target, or refused."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import onnx

from app.domain.errors import Refused
from app.domain.recipe import Calibrated, Mixed, Symmetric
from app.domain.target import RULES
from worker.engine.calibrate.ranges import CLIPPING
from worker.engine.choices.overrides import EIGHT_BITS
from worker.engine.choices.resolve import resolve, unsupported
from worker.engine.passes.opset import PER_CHANNEL
from worker.engine.passes.scopes import opset

WIDE = frozenset({"uint16", "int16", "int4"})
_FIRST_OPSET = {"bytes": 10, "wide": 21}  # of QuantizeLinear and DequantizeLinear, by what they take
_FIELDS = ("format", "activation", "weight", "per_channel", "reduce_range", "qdq_domain")
_BIASES = "corrections bias_correction: it costs nothing at run time, and made no model that was tried worse"
_CLIPPED = "ranges mse: rounding errors average out, so what is clipped counts four times"
Choice = tuple[Any, str]


@dataclass(frozen=True)
class Facts:
    """What the choices depend on: the model's opset, and the target."""

    version: int
    isa: str


def resolve_static(
    model: onnx.ModelProto, recipe: Calibrated, isa: str, *, has_samples: bool = False
) -> tuple[Calibrated, list[str]]:
    """The recipe without `auto`, and why; with samples, automatic ranges wait until they were tried.

    Args:
        model: the prepared model.
        recipe: what was asked for.
        isa: a key of `app.domain.target.RULES`.
        has_samples: whether there are calibration samples beside their statistics.

    Raises:
        Refused: `unsupported_option` or `opset_too_old`, naming the field.
    """
    facts = Facts(opset(model), isa)
    asked = {name: getattr(recipe, name) for name in _FIELDS}
    values, reasons = resolve(asked, _choices(recipe, facts))
    symmetric, more = _symmetric(recipe, values)
    resolved = replace(recipe, **values, symmetric=symmetric)
    _refuse_pairs(resolved, facts)
    resolved, last = _last(resolved, has_samples=has_samples)
    return resolved, reasons + more + last + list(_without_kernels(resolved, facts))


def first_opset(recipe: Calibrated) -> int:
    """The first standard opset whose QuantizeLinear takes all element types of a recipe."""
    return _FIRST_OPSET["wide" if types_of(recipe) & WIDE else "bytes"]


def types_of(recipe: Calibrated) -> set[str]:
    """Every element type that a resolved recipe names."""
    named = {name for o in recipe.overrides for name in (o.weight, o.activation) if name}
    return named | {recipe.activation, recipe.weight}


def _choices(recipe: Calibrated, facts: Facts) -> dict[str, Choice]:
    rules = RULES[facts.isa]
    activation: Choice = (rules.activation, rules.reason)
    if recipe.weight == "uint8":
        activation = ("uint8", "uint8 weights have kernels for uint8 activations only")
    chosen = activation[0] if recipe.activation == "auto" else recipe.activation
    weight = rules.weight if recipe.weight == "auto" else recipe.weight
    known = replace(recipe, activation=chosen, weight=weight)
    return {
        "format": ("qdq", "the runtime makes the same kernels of it, and other tools read it"),
        "activation": activation,
        "weight": (rules.weight, rules.reason),
        "per_channel": _per_channel(recipe, facts),
        "reduce_range": _reduce_range(known, facts),
        "qdq_domain": _domain(known, facts),
    }


def _per_channel(recipe: Calibrated, facts: Facts) -> Choice:
    if facts.version < PER_CHANNEL:
        return False, f"opset {facts.version} has one scale per tensor"
    if recipe.symmetric.weight is False:
        return False, "asymmetric weights have one zero point per tensor"
    return True, "one scale per output channel is closer"


def _reduce_range(recipe: Calibrated, facts: Facts) -> Choice:
    rules = RULES[facts.isa]
    if "int8" not in {recipe.weight, *(o.weight for o in recipe.overrides)}:
        return False, f"{recipe.weight} weights are not summed in 16 bits"
    if not EIGHT_BITS & {recipe.activation, *(o.activation for o in recipe.overrides)}:
        return False, f"{recipe.activation} activations are not summed in 16 bits"
    return rules.reduce_range, rules.reason


def _domain(recipe: Calibrated, facts: Facts) -> Choice:
    needed = first_opset(recipe)
    if facts.version >= needed:
        return "onnx", f"opset {facts.version} has these types"
    return "com.microsoft", f"the standard operators take these types from opset {needed} on"


def _symmetric(recipe: Calibrated, values: dict[str, Any]) -> tuple[Symmetric, list[str]]:
    signed = values["weight"] != "uint8"
    why = (
        "kernels want the zero point of signed weights at 0" if signed else "uint8 weights use all 256 values"
    )
    if values["per_channel"]:
        why = "channels share one zero point"
    asked = {"symmetric.activation": recipe.symmetric.activation, "symmetric.weight": recipe.symmetric.weight}
    choices = {
        "symmetric.activation": (False, "asymmetric ranges waste no values"),
        "symmetric.weight": (signed or values["per_channel"], why),
    }
    found, reasons = resolve(asked, choices)
    return Symmetric(activation=found["symmetric.activation"], weight=found["symmetric.weight"]), reasons


def _refuse_pairs(recipe: Calibrated, facts: Facts) -> None:
    per_channel = recipe.per_channel or any(override.per_channel for override in recipe.overrides)
    if per_channel and facts.version < PER_CHANNEL:
        raise Refused(
            "opset_too_old",
            f"opset {facts.version} has one scale per tensor; "
            "ask for per_channel false, or export with opset 13 or later.",
        )
    if recipe.per_channel and recipe.symmetric.weight is False:
        why = "one zero point per channel has no kernel"
        raise unsupported("symmetric.weight", False, why, "ask for per_channel false, or leave it out")
    weights = {recipe.weight, *(override.weight for override in recipe.overrides)} - {None}
    if recipe.reduce_range and weights == {"int4"}:
        raise unsupported("reduce_range", True, "int4 weights cannot saturate", "leave it out")
    if {"rounding", "adaround"} <= set(recipe.corrections):
        why = "both choose the codes of the weights, and adaround begins with those of rounding"
        raise unsupported("corrections", "rounding and adaround", why, "ask for adaround alone")
    if recipe.format == "qoperator":
        _refuse_operators(recipe)


def _refuse_operators(recipe: Calibrated) -> None:
    wide = sorted(types_of(recipe) & WIDE)
    if wide:
        raise unsupported("format", "qoperator", f"QLinear operators take no {wide[0]}", "ask for qdq")
    if not recipe.quantize_bias:
        why = "QLinear operators take biases in int32"
        raise unsupported("quantize_bias", False, why, "ask for qdq, or leave it out")
    if (recipe.activation, recipe.weight) == ("int8", "uint8"):
        why = "no QLinear operator multiplies int8 activations by uint8 weights"
        raise unsupported("format", "qoperator", why, "ask for int8 weights or uint8 activations")


def _last(recipe: Calibrated, *, has_samples: bool) -> tuple[Calibrated, list[str]]:
    """The fields that hold no plain value: ranges and corrections."""
    reasons = []
    if recipe.ranges.method == "auto" and not has_samples:
        recipe = replace(recipe, ranges=replace(recipe.ranges, method="mse", clipping=CLIPPING))
        reasons.append(_CLIPPED)
    if recipe.corrections == "auto":
        recipe = replace(recipe, corrections=("bias_correction",) if has_samples else ())
        reasons.append(_BIASES if has_samples else "corrections none: there are no calibration samples")
    return recipe, reasons


def _without_kernels(recipe: Calibrated, facts: Facts) -> Iterator[str]:
    """What will not run in integer kernels, said before it is measured; mixed recipes tell it by node."""
    if isinstance(recipe, Mixed):
        return
    slow = without_kernel(recipe.activation, recipe.weight)
    if slow:
        yield slow
    elif recipe.activation == "int8" and facts.isa != "arm64":
        yield "activation int8: on x86 tensors with several readers stay float; uint8 is faster there"


def without_kernel(activation: str, weight: str) -> str | None:
    """Why no integer kernel takes these two types together, and what that means; None where one does."""
    slow = "what it is in runs in float with Q/DQ: smaller file, no speed"
    if activation not in EIGHT_BITS:
        return f"activation {activation}: the CPU has no integer kernels for it, so {slow}"
    if weight == "int4":
        return f"weight int4: no kernel multiplies it by {activation}, so {slow}"
    if (activation, weight) == ("int8", "uint8"):
        return f"weight uint8: no kernel multiplies it by int8 activations, so {slow}"
    return None
