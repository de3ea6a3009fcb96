"""The first Conv, which reads one to three channels, made ready for the fast kernel.

MLAS's symmetric convolution (U8S8 on VNNI) needs a multiple of four input channels; with three it falls back
to im2col, and the stem alone then costs a third of a small network's time.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from worker.engine.calibrate import Statistics
from worker.engine.passes.scopes import (
    all_names,
    array,
    as_initializer,
    attribute,
    consumers,
    initializers,
    tensor_types,
    unused_name,
)

CHANNELS = 4


def pad_stems(
    model: onnx.ModelProto, nodes: Collection[str], statistics: Statistics
) -> tuple[Statistics, list[str]]:
    """Give the chosen Convs that read fewer than four channels four: the others are zeros.

    1. A Conv of one group whose weights [M, C, …] are constant and have C < 4, and whose input is not.
    2. A Pad before it adds zero channels; its weights get zeros for them, so nothing else changes.
    3. The padded tensor has the range of the tensor, and zero.

    Args:
        model: the prepared model; it is changed.
        nodes: names of the nodes that will be quantized.
        statistics: ranges of the model's activations.

    Returns:
        The statistics with the padded tensors, and a reason for each.
    """
    constants, names = initializers(model.graph), all_names(model.graph)
    tensors, reasons = dict(statistics.tensors), list[str]()
    chosen = (node for node in model.graph.node if node.name in nodes and node.input[0] in tensors)
    stems = [node for node in chosen if _is_stem(node, constants)]
    for conv in stems:
        read, channels = conv.input[0], constants[conv.input[1]].dims[1]
        _pad(model.graph, conv, constants[conv.input[1]], names)
        extent = tensors[read]
        tensors[conv.input[0]] = replace(
            extent, lowest=min(extent.lowest, 0.0), highest=max(extent.highest, 0.0), channels=None
        )
        reasons.append(f"{conv.name} reads {channels} channels, padded to 4: the VNNI kernel needs that")
    return replace(statistics, tensors=tensors), reasons


def _is_stem(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type != "Conv" or attribute(node, "group", 1) != 1:
        return False
    weights = constants.get(node.input[1])
    return weights is not None and weights.dims[1] < CHANNELS


def _pad(graph: onnx.GraphProto, conv: onnx.NodeProto, weights: onnx.TensorProto, names: set[str]) -> None:
    missing, rank = CHANNELS - weights.dims[1], len(weights.dims)
    padded = unused_name(f"{conv.input[0]}_padded", names)
    pads = unused_name(f"{conv.name}_pads", names)
    widths = [(0, 0), (0, missing), *[(0, 0)] * (rank - 2)]
    begins_and_ends = [0] * rank + [end for _, end in widths]
    graph.initializer.append(as_initializer(np.array(begins_and_ends, np.int64), pads))
    wider = np.pad(array(weights), widths)
    if len(consumers(graph)[weights.name]) > 1:  # others read them as they are
        conv.input[1] = unused_name(f"{weights.name}_padded", names)
        weights = graph.initializer.add()
    weights.CopyFrom(as_initializer(wider, conv.input[1]))
    graph.value_info.append(helper.make_tensor_value_info(padded, tensor_types(graph)[conv.input[0]], None))
    pad = helper.make_node("Pad", [conv.input[0], pads], [padded], unused_name(f"{conv.name}_pad", names))
    graph.node.insert(_index(graph.node, conv), pad)
    conv.input[0] = padded


def _index(nodes: Sequence[onnx.NodeProto], wanted: onnx.NodeProto) -> int:
    return next(i for i, node in enumerate(nodes) if node.name == wanted.name)
