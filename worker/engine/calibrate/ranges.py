"""From statistics to the ranges that ONNX Runtime's quantizer reads."""

from collections.abc import Callable
from functools import partial

import numpy as np
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

from app.domain.recipe import Ranges
from worker.engine.calibrate.clipping import divergence, least, squared_error
from worker.engine.calibrate.histogram import Histogram
from worker.engine.calibrate.observers import Extent, Statistics

LEVELS = {"uint8": 2**8, "int8": 2**8, "uint16": 2**16, "int16": 2**16}
CLIPPING = 4.0  # how much worse clipping is than rounding, for `auto`; docs/decisions say why
Pair = tuple[float, float]


def ranges(
    statistics: Statistics, method: Ranges, activation: str = "uint8", *, symmetric: bool = False
) -> TensorsData:
    """The range of every tensor that has one, by the recipe's method.

    Each call makes new objects, because the quantizer changes what it is given.

    Args:
        statistics: what calibration saw; tensors that were not finite get no range.
        method: how a range is read from the statistics; `auto` is mse with clipping counted four times.
        activation: the type that activations get, a key of `LEVELS`.
        symmetric: whether activations' ranges are [-a, a].
    """
    read = _methods(method, LEVELS[activation], symmetric=symmetric)[method.method]
    data = {
        name: _data(_read(extent, read)) for name, extent in statistics.tensors.items() if _usable(extent)
    }
    return TensorsData(CalibrationMethod.MinMax, data)


def _methods(
    method: Ranges, levels: int, *, symmetric: bool
) -> dict[str, Callable[[Extent, Histogram], Pair]]:
    def cheapest(cost: Callable[..., Callable[..., object]], extent: Extent, spread: Histogram) -> Pair:
        return least(extent, cost(spread, levels), symmetric=symmetric)  # type: ignore[arg-type]

    return {
        "minmax": lambda extent, _: (extent.lowest, extent.highest),
        "percentile": partial(_percentile, method.percentile / 100),
        "entropy": partial(cheapest, divergence),
        "mse": partial(cheapest, partial(squared_error, clipping=method.clipping)),
        "auto": partial(cheapest, partial(squared_error, clipping=CLIPPING)),
    }


def _usable(extent: Extent) -> bool:
    limit = float(np.finfo(np.float32).max)
    return extent.finite and -limit <= extent.lowest and extent.highest <= limit


def _read(extent: Extent, read: Callable[[Extent, Histogram], Pair]) -> Pair:
    spread = extent.histogram
    varied = spread is not None and int(spread.counts.sum()) > spread.zeros and extent.lowest < extent.highest
    return read(extent, spread) if spread is not None and varied else (extent.lowest, extent.highest)


def _percentile(share: float, extent: Extent, spread: Histogram) -> Pair:
    """The range that leaves out (1 − share) / 2 of the values on each side, and never more than there is."""
    running = np.concatenate([[0], np.cumsum(spread.counts)])
    cut = running[-1] * (1 - share) / 2
    low, high = np.interp([cut, running[-1] - cut], running, spread.edges)
    return float(max(min(low, 0.0), extent.lowest)), float(min(max(high, 0.0), extent.highest))


def _data(pair: Pair) -> TensorData:
    return TensorData(lowest=np.float32(pair[0]), highest=np.float32(pair[1]))
