"""Inputs and outputs of the integer type: the caller quantizes and dequantizes."""

import json

import numpy as np
import onnx
from onnx import numpy_helper

from worker.engine.choices.resolve import unsupported
from worker.engine.interface import KEY
from worker.engine.methods.qoperator import drop_idle
from worker.engine.passes.pairs import DEQUANTIZE, QUANTIZE, is_whole
from worker.engine.passes.scopes import (
    consumers,
    initializers,
    producers,
    real_inputs,
    replace_nodes,
    tensor_names,
    unused_name,
)


def integer_interface(model: onnx.ModelProto) -> list[str]:
    """Drop the Q behind inputs and the DQ before outputs, in place; the types of both change.

    Scales and zero points go into the model's metadata as JSON, under `fewbits.interface`: a real value is
    `(integer - zero_point) * scale`.

    Returns:
        A sentence per input and output: its type, scale and zero point, or why it stays as it was.

    Raises:
        Refused: `unsupported_option` when no input and no output is next to a Q or DQ.
    """
    graph = model.graph
    _quantize_before_padding(graph)
    found = {value.name: _after_input(graph, value) for value in real_inputs(graph)}
    found |= {value.name: _before_output(graph, value) for value in graph.output}
    changed = {name: pair for name, pair in found.items() if pair}
    if not changed:
        why = "no input or output of this model is quantized"
        raise unsupported("quantize_io", True, why, "leave it out")
    shown = {name: {"scale": s, "zero_point": z} for name, (s, z, _) in changed.items()}
    model.metadata_props.add(key=KEY, value=json.dumps(shown, sort_keys=True))
    drop_idle(graph)
    reasons = [
        f"{name} is {kind}: value = (integer - {zero}) * {scale:.9g}"
        for name, (scale, zero, kind) in changed.items()
    ]
    return reasons + [f"{name} keeps its type: it is not quantized" for name in found if name not in changed]


Pair = tuple[float, int, str]  # scale, zero point, element type


def _quantize_before_padding(graph: onnx.GraphProto) -> None:
    """Let an input that is padded with zeros and then quantized be quantized first."""
    readers = consumers(graph)
    for value in real_inputs(graph):
        pads = readers.get(value.name, [])
        if len(pads) == 1 and pads[0].op_type == "Pad" and len(pads[0].input) == 2:  # noqa: PLR2004
            behind = readers.get(pads[0].output[0], [])
            if len(behind) == 1 and _is(behind[0], QUANTIZE, graph):
                _swap(graph, pads[0], behind[0])


def _swap(graph: onnx.GraphProto, pad: onnx.NodeProto, quantize: onnx.NodeProto) -> None:
    result = quantize.output[0]
    between = unused_name(f"{result}_unpadded", tensor_names(graph))
    quantize.input[0], pad.input[0] = pad.input[0], between
    quantize.output[0], pad.output[0] = between, result
    pad.input.append(quantize.input[2])  # zeros become zero points
    nodes = list(graph.node)
    first, second = (next(i for i, n in enumerate(nodes) if n.name == m.name) for m in (pad, quantize))
    nodes[first], nodes[second] = nodes[second], nodes[first]
    replace_nodes(graph, nodes)


def _after_input(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> Pair | None:
    readers = consumers(graph).get(value.name, [])
    if len(readers) != 1 or not _is(readers[0], QUANTIZE, graph):
        return None
    quantize = readers[0]
    _rename(graph, quantize.output[0], value.name)
    replace_nodes(graph, [node for node in graph.node if node.name != quantize.name])
    return _retyped(graph, value, quantize)


def _before_output(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> Pair | None:
    dequantize = producers(graph).get(value.name)
    if dequantize is None or not _is(dequantize, DEQUANTIZE, graph) or consumers(graph).get(value.name):
        return None
    made = producers(graph).get(dequantize.input[0])
    if made is None:
        return None
    pair = _retyped(graph, value, dequantize)
    replace_nodes(graph, [node for node in graph.node if node.name != dequantize.name])
    _rename(graph, dequantize.input[0], value.name)
    return pair


def _is(node: onnx.NodeProto, op_type: str, graph: onnx.GraphProto) -> bool:
    return node.op_type == op_type and is_whole(node, initializers(graph))


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new


def _retyped(graph: onnx.GraphProto, value: onnx.ValueInfoProto, node: onnx.NodeProto) -> Pair:
    constants = initializers(graph)
    scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
    value.type.tensor_type.elem_type = constants[node.input[2]].data_type
    return float(np.float32(scale.item())), zero.item(), str(zero.dtype)
