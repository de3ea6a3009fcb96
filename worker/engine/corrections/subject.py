"""What every correction is given, and what it hands on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from app.domain.errors import Refused
from app.domain.recipe import Calibrated
from worker.engine.calibrate import Statistics
from worker.engine.choices.overrides import Exceptions
from worker.engine.choices.setting import Samples, Setting

Overrides = Mapping[str, Sequence[Mapping[str, Any]]]  # ONNX Runtime's TensorQuantOverrides


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A float model on its way to the quantizer.

    Attributes:
        model: the prepared model; corrections change it in place.
        nodes: names of the chosen nodes.
        recipe: the resolved recipe.
        setting: its statistics and samples.
        statistics: of the model as it is now.
        exceptions: what the recipe's overrides say.
        overrides: scales and zero points that weights have got so far.
    """

    model: onnx.ModelProto
    nodes: Sequence[str]
    recipe: Calibrated
    setting: Setting
    statistics: Statistics
    exceptions: Exceptions = field(default_factory=Exceptions)
    overrides: Overrides = field(default_factory=dict)

    def samples(self, correction: str) -> Samples:
        """The calibration samples.

        Raises:
            Refused: `no_calibration_data` when only statistics were given.
        """
        if self.setting.samples is None:
            detail = (
                f"corrections {correction}: it needs calibration samples, not only statistics; give data."
            )
            raise Refused("no_calibration_data", detail)
        return self.setting.samples


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """What a correction leaves to those after it and to the quantizer.

    `overrides` are of weights; they win over what the recipe's own overrides say of the same weight.
    """

    statistics: Statistics
    overrides: Overrides = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


Correction = Callable[[Subject], Corrected]
