"""The sizes of tensors, as numbers or as names of what is not known before a run."""

import contextlib
from collections.abc import Mapping
from math import prod

import onnx
from onnx import TensorProto, helper

from worker.engine.passes.scopes import all_graphs, attribute, is_standard, subgraphs

Size = int | str
Sizes = Mapping[str, tuple[Size, ...]]
_LARGEST = 64  # values of a constant that may be part of a shape
_EXACT = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.DOUBLE})
_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})


def known_sizes(model: onnx.ModelProto) -> Sizes:
    """The shape of every tensor of the main graph all of whose sizes follow from those of the inputs.

    1. Equal names are equal sizes. Each size of each input has a name of its own: the runtime does not hold
       inputs to the names that their model declares.
    2. What is recorded in the model is not asked, in subgraphs neither: it may be wrong, and ONNX Runtime's
       symbolic inference guesses that what is added has equal sizes, though it may be broadcast.
    3. ONNX's inference is not asked where it is known to differ from the runtime.
    """
    bare = _bare(model)
    found = {value.name: sizes for value in bare.graph.input if (sizes := _sizes(value)) is not None}
    with contextlib.suppress(Exception):  # C++ exceptions of several types
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
        values = (*inferred.value_info, *inferred.output)
        found |= {value.name: sizes for value in values if (sizes := _sizes(value)) is not None}
    return found


def first_of_each(graph: onnx.GraphProto, sizes: Sizes) -> Mapping[tuple[Size, ...], str]:
    """The first tensor of each shape, in the order of the graph."""
    names = (*(value.name for value in graph.input), *(name for node in graph.node for name in node.output))
    first: dict[tuple[Size, ...], str] = {}
    for name in names:
        if name in sizes:
            first.setdefault(sizes[name], name)
    return first


def share_shapes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Read equal shapes from one tensor, so that the runtime computes with them once.

    Transformers ask each layer for the batch and the sequence length that none of them changes.
    """
    graph, sizes = model.graph, known_sizes(model)
    first, changed = first_of_each(graph, sizes), []
    for node in graph.node:
        source = first.get(sizes[node.input[0]]) if _asks_known(node, sizes) else None
        if source and source != node.input[0]:
            node.input[0] = source
            changed.append(node.name)
    return model, changed


def _asks_known(node: onnx.NodeProto, sizes: Sizes) -> bool:
    return is_standard(node, "Shape") and node.input[0] in sizes


def _sizes(value: onnx.ValueInfoProto) -> tuple[Size, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    sizes = tuple(d.dim_param or (d.dim_value if d.HasField("dim_value") else "") for d in kind.shape.dim)
    return None if "" in sizes else sizes


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with inputs in the place of large constants, and with no shapes but those of inputs."""
    graph = model.graph
    small = [tensor for tensor in graph.initializer if prod(tensor.dims) <= _LARGEST]
    large = [tensor for tensor in graph.initializer if prod(tensor.dims) > _LARGEST]
    fed = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large]
    outputs = [onnx.ValueInfoProto(name=value.name) for value in graph.output]
    bare = helper.make_graph(graph.node, graph.name, [*graph.input, *fed], outputs, small)
    for value in bare.input:
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if not size.HasField("dim_value"):
                size.dim_param = f"{value.name}.{axis}"
    for node in bare.node:
        if not _trusted(node):
            node.domain = "not.inferred"
        for below in subgraphs(node):
            for scope in all_graphs(below):
                _forget(scope)
    return helper.make_model(bare, opset_imports=model.opset_import, functions=model.functions)


def _trusted(node: onnx.NodeProto) -> bool:
    """Einsum takes what it pairs for equal; pools round up otherwise; a name outlives a narrowing Cast."""
    if node.op_type in _POOLS:
        return not attribute(node, "ceil_mode", 0)
    return node.op_type != "Einsum" and (node.op_type != "Cast" or attribute(node, "to", 0) in _EXACT)


def _forget(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
