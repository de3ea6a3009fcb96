"""The sizes of tensors, as numbers or as names of dynamic dimensions."""

import contextlib
from collections.abc import Iterable, Mapping
from math import prod

import onnx
from onnx import helper

Size = int | str
Sizes = Mapping[str, tuple[Size, ...]]
_LARGEST = 64  # values of a constant that may be part of a shape


def known_sizes(model: onnx.ModelProto) -> Sizes:
    """The shape of every tensor of the main graph all of whose sizes follow from inputs and constants.

    Equal names are equal sizes. What is recorded in the model is not asked: it may be wrong, and ONNX
    Runtime's symbolic inference guesses that what is added has equal sizes, though it may be broadcast.
    """
    graph = model.graph
    found = {value.name: sizes for value in graph.input if (sizes := _sizes(value)) is not None}
    with contextlib.suppress(Exception):  # C++ exceptions of several types
        inferred = onnx.shape_inference.infer_shapes(_without_values(model), data_prop=True).graph
        values = (*inferred.value_info, *inferred.output)
        found |= {value.name: sizes for value in values if (sizes := _sizes(value)) is not None}
    return found


def share_shapes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Read equal shapes from one tensor, so that the runtime computes with them once.

    Transformers ask each layer for the batch and the sequence length that none of them changes.
    """
    graph, sizes = model.graph, known_sizes(model)
    first: dict[tuple[Size, ...], str] = {}
    _note(first, sizes, (value.name for value in graph.input))
    changed = []
    for node in graph.node:
        read = sizes.get(node.input[0]) if node.op_type == "Shape" else None
        if read in first and first[read] != node.input[0]:
            node.input[0] = first[read]
            changed.append(node.name)
        _note(first, sizes, node.output)
    return model, changed


def _note(first: dict[tuple[Size, ...], str], sizes: Sizes, names: Iterable[str]) -> None:
    for name in names:
        if name in sizes:
            first.setdefault(sizes[name], name)


def _sizes(value: onnx.ValueInfoProto) -> tuple[Size, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    sizes = tuple(d.dim_param or (d.dim_value if d.HasField("dim_value") else "") for d in kind.shape.dim)
    return None if "" in sizes else sizes


def _without_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with inputs in the place of large constants, and with no shapes but those of inputs."""
    graph = model.graph
    small = [tensor for tensor in graph.initializer if prod(tensor.dims) <= _LARGEST]
    large = [tensor for tensor in graph.initializer if prod(tensor.dims) > _LARGEST]
    fed = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large]
    outputs = [onnx.ValueInfoProto(name=value.name) for value in graph.output]
    bare = helper.make_graph(graph.node, graph.name, [*graph.input, *fed], outputs, small)
    return helper.make_model(bare, opset_imports=model.opset_import, functions=model.functions)
