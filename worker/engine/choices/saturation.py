"""Whether 8-bit products can overflow the 16-bit sums of x86 without VNNI.

VPMADDUBSW multiplies uint8 activations by int8 weights and adds neighbouring products in 16 bits, with
saturation (Intel SDM; MLAS does so in U8S8 kernels for AVX2 and SSE4.1). Neighbours lie along what is summed:
the channels of one kernel position, or the rows of a matrix.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from worker.engine.passes.scopes import attribute

_HIGHEST_ACTIVATION = 255
_INT16 = np.iinfo(np.int16)


def can_saturate(node: onnx.NodeProto, weights: npt.NDArray[np.int8]) -> bool:
    """Whether some uint8 activations drive a sum of two neighbouring products out of 16 bits.

    Depthwise convolutions cannot: their kernel widens before it multiplies.

    Args:
        node: a Conv, Gemm or MatMul.
        weights: its quantized weights, of the operator's own shape.
    """
    if node.op_type == "Conv":
        if weights.shape[1] == 1 and weights.shape[0] == attribute(node, "group", 1):
            return False
        channels_last = np.moveaxis(weights, 1, -1)
        return any(_overflows(rows.reshape(len(weights), -1)) for rows in (weights, channels_last))
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    return _overflows(weights if transposed else weights.T)


def _overflows(rows: npt.NDArray[np.int8]) -> bool:
    """Over rows [outputs, summed]; an odd last weight has a neighbour of zero."""
    padded = np.pad(rows.astype(np.int32), ((0, 0), (0, rows.shape[1] % 2)))
    pairs = padded.reshape(len(rows), -1, 2)
    highest = _HIGHEST_ACTIVATION * np.maximum(pairs, 0).sum(-1)
    lowest = _HIGHEST_ACTIVATION * np.minimum(pairs, 0).sum(-1)
    return bool((highest > _INT16.max).any() or (lowest < _INT16.min).any())


def full_range(weights: npt.NDArray[Any], axis: int | None) -> npt.NDArray[np.int8]:
    """Weights as symmetric int8 of the full range, one scale per index of `axis` or one for all."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights.astype(np.float64)).max(axis=others, keepdims=True, initial=0)
    scaled = weights / np.where(largest > 0, largest, 1) * np.iinfo(np.int8).max
    quantized: npt.NDArray[np.int8] = np.rint(scaled).astype(np.int8)
    return quantized
