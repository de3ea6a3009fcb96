"""float16 models are computed in float32 on a CPU, so that is how they are written."""

from collections.abc import Set as AbstractSet

import numpy as np
import onnx
from onnx import helper

from worker.engine.passes.outputs import direct_outputs
from worker.engine.passes.scopes import (
    all_graphs,
    all_nodes,
    array,
    as_initializer,
    attribute,
    replace_nodes,
    tensor_names,
    unused_name,
)

_HALF, _SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def widen_half(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Compute a float16 model in float32; its inputs and outputs keep their type.

    1. Nothing happens unless the main graph has float16 weights.
    2. Constants become float32, and Cast nodes that make float16 make float32.
    3. Each float16 input and output of the main graph gets a Cast; an output that no node writes stays.
    """
    kept = direct_outputs(model.graph)
    halves = [tensor.name for tensor in model.graph.initializer if tensor.data_type == _HALF]
    widened = [name for name in halves if name not in kept]
    if not widened:
        return model, []
    for graph in all_graphs(model.graph):
        _widen_constants(graph, kept if graph is model.graph else set())
        del graph.value_info[:]
    for node in all_nodes(model.graph):
        if node.op_type == "Cast" and attribute(node, "to", 0) == _HALF:
            next(entry for entry in node.attribute if entry.name == "to").i = _SINGLE
    _cast_surface(model.graph)
    return model, widened


def _widen_constants(graph: onnx.GraphProto, kept: AbstractSet[str]) -> None:
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _widen(tensor)
    for node in graph.node:
        for entry in node.attribute:
            if entry.type == onnx.AttributeProto.TENSOR:
                _widen(entry.t)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == _HALF:
        tensor.CopyFrom(as_initializer(array(tensor).astype(np.float32), tensor.name))


def _cast_surface(graph: onnx.GraphProto) -> None:
    names, kept = tensor_names(graph), direct_outputs(graph)
    written = [value for value in graph.output if value.name not in kept]
    inside = {v.name: unused_name(f"{v.name}_float", names) for v in (*graph.input, *written) if _half(v)}
    for scope in all_graphs(graph):
        for node in scope.node:
            node.input[:] = [inside.get(name, name) for name in node.input]
            node.output[:] = [inside.get(name, name) for name in node.output]
    before = [_cast(v.name, inside[v.name], _SINGLE) for v in graph.input if v.name in inside]
    after = [_cast(inside[v.name], v.name, _HALF) for v in written if v.name in inside]
    replace_nodes(graph, [*before, *graph.node, *after])


def _half(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == _HALF)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"{target}_cast", to=kind)
