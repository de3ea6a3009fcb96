"""Corrections: what is done to a float model, its ranges or its weights before they are quantized."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from app.domain.errors import FieldError, Refused
from app.domain.recipe import StaticInt8
from worker.engine.calibrate import Statistics
from worker.engine.methods.setting import Setting

Overrides = Mapping[str, Sequence[Mapping[str, Any]]]  # ONNX Runtime's TensorQuantOverrides


@dataclass(frozen=True)
class Corrected:
    """What a correction leaves to the quantizer.

    `overrides` gives weights a scale, zero point and type of their own (see ONNX Runtime's
    `TensorQuantOverrides`); they win over what the recipe's own overrides say of the same weight.
    """

    statistics: Statistics
    overrides: Overrides = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


# (prepared model, names of the chosen nodes, resolved recipe, setting) → what to quantize with. The model may
# be changed in place; `setting.statistics` are those of the model as it is.
Correction = Callable[[onnx.ModelProto, Collection[str], StaticInt8, Setting], Corrected]

CORRECTIONS: dict[str, Correction] = {}  # in the order in which they are applied


def refuse_unknown(names: Sequence[str]) -> None:
    """Refuse what no correction is filed under.

    Raises:
        Refused: `unsupported_option`.
    """
    for name in names:
        if name not in CORRECTIONS:
            detail = f"corrections {name}: there is no such correction; leave it out."
            raise Refused("unsupported_option", detail, errors=(FieldError("/corrections", detail),))


__all__ = ["CORRECTIONS", "Corrected", "Correction", "Overrides", "refuse_unknown"]
