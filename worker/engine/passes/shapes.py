"""The sizes of tensors, as numbers or as names of dynamic dimensions."""

from collections.abc import Iterable, Mapping

import onnx

Size = int | str
Sizes = Mapping[str, tuple[Size, ...]]


def known_sizes(graph: onnx.GraphProto) -> Sizes:
    """The shape of every tensor all of whose sizes are recorded; equal names are equal sizes."""
    recorded = {value.name: value for value in (*graph.value_info, *graph.output, *graph.input)}
    found = {name: _sizes(value) for name, value in recorded.items()}
    return {name: sizes for name, sizes in found.items() if sizes is not None}


def share_shapes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Read equal shapes from one tensor, so that the runtime computes with them once.

    Transformers ask each layer for the batch and the sequence length that none of them changes.
    """
    graph, sizes = model.graph, known_sizes(model.graph)
    first: dict[tuple[Size, ...], str] = {}
    _note(first, sizes, (value.name for value in graph.input))
    changed = []
    for node in graph.node:
        read = sizes.get(node.input[0]) if node.op_type == "Shape" else None
        if read is not None and first[read] != node.input[0]:
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
