"""Walk a graph and what hangs below it: subgraphs, constants, consumers, attributes."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16})
STANDARD = frozenset({"", "ai.onnx"})


def is_standard(node: onnx.NodeProto, op_type: str) -> bool:
    """Whether a node is this standard operator; a model may define a function of the same name."""
    return node.op_type == op_type and node.domain in STANDARD


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node carries in its attributes (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and every graph below it."""
    yield graph
    for node in graph.node:
        for below in subgraphs(node):
            yield from all_graphs(below)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of every graph below it."""
    for scope in all_graphs(graph):
        yield from scope.node


def names_used(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that a node reads, those that its subgraphs read included; may repeat, may be empty."""
    yield from node.input
    for below in subgraphs(node):
        yield from (output.name for output in below.output)
        for inner in below.node:
            yield from names_used(inner)


def consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """For each tensor the nodes of this graph that read it, a node once per time."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in names_used(node):
            found.setdefault(name, []).append(node)
    return found


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """For each tensor the node of this graph that writes it."""
    return {output: node for node in graph.node for output in node.output if output}


def initializers(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The constants of this graph by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must feed: before IR 4 every constant is listed as an input too."""
    constants = initializers(graph)
    return [value for value in graph.input if value.name not in constants]


def tensor_types(graph: onnx.GraphProto) -> dict[str, int]:
    """The element type of every tensor whose type is recorded."""
    types = {t.name: t.data_type for t in graph.initializer}
    for value in (*graph.value_info, *graph.output, *graph.input):
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
    return types


def tensor_ranks(graph: onnx.GraphProto) -> dict[str, int]:
    """The number of dimensions of every computed tensor whose shape is recorded."""
    values = (*graph.value_info, *graph.output, *graph.input)
    types = {value.name: value.type.tensor_type for value in values}
    return {name: len(kind.shape.dim) for name, kind in types.items() if kind.HasField("shape")}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:  # noqa: ANN401
    """The value of a node's attribute, or `default`."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def drop_attribute(node: onnx.NodeProto, name: str) -> None:
    """Take an attribute away, so that its default holds."""
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def array(tensor: onnx.TensorProto) -> npt.NDArray[Any]:
    """The values of a constant, of its own type and shape."""
    return numpy_helper.to_array(tensor)


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators; 0 when the model imports none."""
    return next((int(o.version) for o in model.opset_import if o.domain in STANDARD), 0)


def unused_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or with the first number that makes it new; the answer is added to `taken`."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


def tensor_names(graph: onnx.GraphProto) -> set[str]:
    """Every tensor name in a graph and below."""
    return {
        name
        for scope in all_graphs(graph)
        for name in (
            *(value.name for value in scope.input),
            *(tensor.name for tensor in scope.initializer),
            *(output for node in scope.node for output in node.output),
        )
    }


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Every name of a tensor or a node in a graph and below."""
    return tensor_names(graph) | {node.name for node in all_nodes(graph)}


def key(node: onnx.NodeProto) -> tuple[str, ...]:
    """What tells a node from all others of its graph: object identity does not last in protobuf."""
    return tuple(node.output)


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make these the graph's nodes, in this order."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def as_initializer(values: npt.NDArray[Any], name: str) -> onnx.TensorProto:
    """A constant with these values."""
    return numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)


def rename_inputs(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let the nodes of a graph and of every graph below it read `new` instead of `old`."""
    for node in all_nodes(graph):
        node.input[:] = [new if name == old else name for name in node.input]


def drop_unused(graph: onnx.GraphProto) -> None:
    """Initializers that nothing reads any more; `names_used` looks below, so outer ones are safe."""
    for scope in all_graphs(graph):
        used = {name for node in scope.node for name in names_used(node)}
        used |= {value.name for value in scope.output}
        kept = [tensor for tensor in scope.initializer if tensor.name in used]
        del scope.initializer[:]
        scope.initializer.extend(kept)
