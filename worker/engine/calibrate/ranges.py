"""From statistics to the ranges that ONNX Runtime's quantizer reads."""

import numpy as np
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

from app.domain.recipe import Ranges
from worker.engine.calibrate.observers import Extent, Statistics


def ranges(statistics: Statistics, method: Ranges) -> TensorsData:
    """The range of every tensor that has one, by the recipe's method.

    Each call makes new objects, because the quantizer changes what it is given.

    Args:
        statistics: what calibration saw; tensors that were not finite get no range.
        method: how a range is read from the statistics.
    """
    read = {"minmax": _minmax}[method.method]
    data = {name: read(extent) for name, extent in statistics.tensors.items() if extent.finite}
    return TensorsData(CalibrationMethod.MinMax, data)


def _minmax(extent: Extent) -> TensorData:
    return TensorData(lowest=np.float32(extent.lowest), highest=np.float32(extent.highest))
