"""A scale for each output channel of ConvInteger, which ONNX Runtime's dynamic quantizer gives one for all.

The operator sums integers; the scales are multiplied in behind it, and may be as many as there are channels
as long as all weights have one zero point. Where a folded batch norm leaves a channel a hundred times as
large as others, these others have no bits left with one scale.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from worker.engine.passes.scopes import all_graphs, array, as_initializer, initializers

Array = npt.NDArray[Any]
_SUFFIX = "_quant"  # of what the quantizer makes of a node


def float_weights(model: onnx.ModelProto, nodes: Collection[str]) -> dict[str, Array]:
    """The weights of the chosen Convs by node name, [M, C, …]; constants of the node's own graph."""
    return {
        node.name: array(constants[node.input[1]])
        for graph in all_graphs(model.graph)
        for constants in [initializers(graph)]
        for node in graph.node
        if node.op_type == "Conv" and node.name in nodes
    }


def scale_channels(model: onnx.ModelProto, weights: Mapping[str, Array], *, reduce_range: bool) -> None:
    """Round the weights of each ConvInteger again, with a scale for each channel where that is closer.

    Args:
        model: what the quantizer made; it is changed.
        weights: the float weights by the name of the Conv.
        reduce_range: whether codes have 7 bits.
    """
    zero = 64 if reduce_range else 128
    for graph in all_graphs(model.graph):
        constants = initializers(graph)
        for node in graph.node:
            values = weights.get(node.name.removesuffix(_SUFFIX)) if node.op_type == "ConvInteger" else None
            if values is not None:
                scale = f"{node.input[1].removesuffix('_quantized')}_scale"
                _scale_one([constants[name] for name in (node.input[1], scale, node.input[3])], values, zero)


def _scale_one(stored: Sequence[onnx.TensorProto], values: Array, zero: int) -> None:
    """Round one weight again; `stored` are its codes, scale and zero point. One that is shared is done."""
    before, scale, offset = (array(tensor).astype(np.float64) for tensor in stored)
    if scale.ndim:
        return
    codes, scales = _rounded(values, zero)
    after = (codes.astype(np.float64) - zero) * scales[:, np.newaxis]
    if np.square(after - values).sum() < np.square((before - offset) * scale - values).sum():
        made = codes, scales.astype(array(stored[1]).dtype), np.array(zero, np.uint8)
        for tensor, content in zip(stored, made, strict=True):
            tensor.CopyFrom(as_initializer(content, tensor.name))


def _rounded(values: Array, zero: int) -> tuple[npt.NDArray[np.uint8], Array]:
    """Codes around the zero point, [M, C, …], and the scales that multiply sums, [M, 1, …]."""
    rows = values.astype(np.float64)
    largest = np.abs(rows).max(axis=tuple(range(1, rows.ndim)), keepdims=True)
    scales = np.where(largest > 0, largest, 1.0) / (zero - 1)
    codes = np.rint(rows / scales) + zero
    return codes.astype(np.uint8), scales[:, 0]
