"""What a caller gets as it is, nodes read under another name: recipes change and cast what nodes read."""

import onnx
from onnx import helper

from worker.engine.passes.scopes import (
    FLOATS,
    all_graphs,
    consumers,
    initializers,
    real_inputs,
    rename_inputs,
    tensor_names,
    unused_name,
)


def separate_outputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Let nodes read a copy of an input or a constant that is an output too.

    ONNX Runtime's quantizer takes every output for what a node writes, and what changes a weight in place
    would change that output.

    1. Only floats. An input of the main graph is read through an Identity.
    2. A constant is copied, in its own scope.
    3. What nothing reads, or Identities alone, is left alone.
    """
    names = tensor_names(model.graph)
    copied = [name for graph in all_graphs(model.graph) for name in _copy_constants(graph, names)]
    return model, copied + _read_through_identities(model.graph, names)


def direct_outputs(graph: onnx.GraphProto) -> set[str]:
    """Names of the outputs that no node writes: they are inputs or constants."""
    given = {value.name for value in graph.input} | set(initializers(graph))
    return given & {value.name for value in graph.output}


def _copy_constants(graph: onnx.GraphProto, names: set[str]) -> list[str]:
    constants, copies = initializers(graph), list[str]()
    for name in _read_too(graph, {n for n, tensor in constants.items() if tensor.data_type in FLOATS}):
        copies.append(unused_name(name, names))
        graph.initializer.add().CopyFrom(constants[name])
        graph.initializer[-1].name = copies[-1]
        rename_inputs(graph, name, copies[-1])
    return copies


def _read_through_identities(graph: onnx.GraphProto, names: set[str]) -> list[str]:
    inputs = {v.name for v in real_inputs(graph) if v.type.tensor_type.elem_type in FLOATS}
    made = list[str]()
    for name in _read_too(graph, inputs):
        made.append(unused_name(f"{name}_read", names))
        rename_inputs(graph, name, made[-1])
        graph.node.insert(0, helper.make_node("Identity", [name], [made[-1]], made[-1]))
    return made


def _read_too(graph: onnx.GraphProto, given: set[str]) -> list[str]:
    """Those of the given names that are outputs and that more than Identities read."""
    readers = consumers(graph)
    found = dict.fromkeys(value.name for value in graph.output if value.name in given)
    return [name for name in found if any(node.op_type != "Identity" for node in readers.get(name, []))]
