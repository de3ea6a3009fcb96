"""What is constant becomes an initializer: ONNX Runtime's quantizer sees weights nowhere else."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from worker.engine.passes.scopes import (
    all_graphs,
    as_initializer,
    attribute,
    drop_unused,
    initializers,
    key,
    names_used,
    replace_nodes,
    subgraphs,
)

Constants = Mapping[str, onnx.TensorProto]
_NUMBERS: Mapping[str, type] = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
_LARGEST_RESULT = 64_000_000  # bytes; a constant may be a short recipe for a huge tensor
_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_KEPT = _RANDOM | {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Dropout"}


def constants_to_initializers(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Turn Constant nodes into initializers of their own scope.

    1. Tensors and numbers move, one or a list of them: strings and sparse tensors stay nodes.
    2. A constant that is an output of its graph stays a node.
    """
    moved = [_move_constants(graph) for graph in all_graphs(model.graph)]
    return model, [name for names in moved for name in names]


def _move_constants(graph: onnx.GraphProto) -> list[str]:
    outputs = {value.name for value in graph.output}
    values = {
        node.output[0]: _value(node)
        for node in graph.node
        if node.op_type == "Constant" and node.output[0] not in outputs
    }
    moved = {name: value for name, value in values.items() if value is not None}
    for name, value in moved.items():
        tensor = graph.initializer.add()
        tensor.CopyFrom(value)
        tensor.name = name
    replace_nodes(graph, (n for n in graph.node if not (n.op_type == "Constant" and n.output[0] in moved)))
    return list(moved)


def _value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    for name, kind in _NUMBERS.items():
        given = attribute(node, name, None)
        if given is not None:
            return as_initializer(np.array(given, kind), name)
    tensor: onnx.TensorProto | None = attribute(node, "value", None)
    return tensor


def fold_constants(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Compute once what depends on constants alone.

    1. A node whose inputs are all initializers, of its scope or an outer one, or results of such nodes.
    2. Nodes that are random, that quantize, that hold subgraphs or that write an output are not.
    3. Nothing happens in a scope when a result would be over 64 MB, or when computing it fails.
    """
    folded = _fold_scope(model, model.graph, {})
    if folded:
        drop_unused(model.graph)
    return model, folded


def _fold_scope(model: onnx.ModelProto, graph: onnx.GraphProto, outer: Constants) -> list[str]:
    inputs = {value.name for value in graph.input}
    constants = {n: t for n, t in {**outer, **initializers(graph)}.items() if n not in inputs}
    folded = _foldable(graph, set(constants) | {""})
    results = _results(graph, folded)
    values = _compute(model, folded, results, constants) if results else None
    if values:
        done = {key(node) for node in folded}
        replace_nodes(graph, [node for node in graph.node if key(node) not in done])
        graph.initializer.extend(as_initializer(value, name) for name, value in values.items())
        constants = {**constants, **initializers(graph)}
    below = [_fold_scope(model, inner, constants) for node in graph.node for inner in subgraphs(node)]
    return [node.name for node in folded if values] + [name for names in below for name in names]


def _foldable(graph: onnx.GraphProto, constant: set[str]) -> list[onnx.NodeProto]:
    outputs = {value.name for value in graph.output}
    found = []
    for node in graph.node:
        kept = node.op_type in _KEPT or any(subgraphs(node)) or outputs & set(node.output)
        if not kept and node.input and set(node.input) <= constant:
            constant.update(node.output)
            found.append(node)
    return found


def _results(graph: onnx.GraphProto, folded: list[onnx.NodeProto]) -> list[str]:
    """Outputs of folded nodes that the rest of the graph reads."""
    done = {key(node) for node in folded}
    read = {name for node in graph.node if key(node) not in done for name in names_used(node)}
    return [name for node in folded for name in node.output if name in read]


def _compute(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], results: list[str], constants: Constants
) -> dict[str, npt.NDArray[Any]] | None:
    names = sorted({name for node in nodes for name in node.input} & set(constants))
    outputs = [onnx.ValueInfoProto(name=name) for name in results]
    part = helper.make_model(
        helper.make_graph(nodes, "constants", [], outputs, [constants[name] for name in names]),
        opset_imports=list(model.opset_import),
        ir_version=max(model.ir_version, 4),
    )
    part.functions.extend(model.functions)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run(results, {})
    except Exception:  # noqa: BLE001 - then these nodes stay; the runtime's errors share no other base
        return None
    if not all(
        isinstance(v, np.ndarray) and v.nbytes < _LARGEST_RESULT and v.dtype != object for v in values
    ):
        return None
    return dict(zip(results, values, strict=True))
