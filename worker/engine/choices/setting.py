"""What a method may look at beside the model and the recipe."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from worker.engine.calibrate import Statistics
from worker.engine.ready import Feed

Samples = Callable[[], Iterable[Feed]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where the result will run, and what is known of the data.

    Attributes:
        isa: a key of `app.domain.target.RULES`.
        runtime: the release of ONNX Runtime that must load the result, as `1.N`; None is the one used here.
        statistics: of calibration on the prepared model; static recipes need them.
        samples: gives the calibration feeds anew at each call.
    """

    isa: str
    runtime: str | None = None
    statistics: Statistics | None = None
    samples: Samples | None = None
