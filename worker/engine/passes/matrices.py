"""Rows of three axes become those of one matrix: only products of matrices have a kernel that adds a bias."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from worker.engine.passes.biases import added_row
from worker.engine.passes.rows import LAST, Graph, Region, by_rows, regions
from worker.engine.passes.scopes import (
    STANDARD,
    all_names,
    array,
    as_initializer,
    attribute,
    is_standard,
    key,
    opset,
    replace_nodes,
    unused_name,
)
from worker.engine.passes.shapes import Size

Shape = tuple[int, ...]
_OWN: Shape = ()  # the shape that a Reshape has already
_LITERAL_ZEROS = 14  # the first opset where Reshape can be told that a 0 is no copy
_PASS_SIZES_ON = frozenset({"Cast", "Gather", "Slice", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class _Change:
    """How a region becomes one of matrices.

    Attributes:
        region: what changes.
        flattened: what it reads, and others too: it gets a matrix of its own.
        joined: what it alone reads from a Reshape, which can write a matrix.
        restored: what others read, too: the shape that they expect, or the tensor that has it.
        split: what a Reshape makes of the region's results: the shape, where its own copies sizes.
    """

    region: Region
    flattened: Sequence[str]
    joined: Sequence[str]
    restored: Mapping[str, Shape | str]
    split: Mapping[str, Shape]


def multiply_matrices(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Multiply the rows of three axes as those of one matrix, where that adds biases for free.

    1. A region is made of products with constant weights and of what treats each row by itself: sums,
       activations, normalizations. The first two sizes of its tensors are the same.
    2. It is entered and left by Reshape; those that split heads and join them serve for that, too.
    3. It changes when it has more products with a bias than it needs further Reshape nodes.
    """
    if opset(model) < _LITERAL_ZEROS:
        return model, []
    graph = Graph.of(model)
    changes = [change for region in regions(graph) if (change := _planned(graph, region))]
    products = [node.name for change in changes for node in change.region.nodes if _has_bias(graph, node)]
    if changes:
        _write(graph, changes)
    return model, products


def _planned(graph: Graph, region: Region) -> _Change | None:
    """How a region changes, or None where that costs more than it wins."""
    entries = sorted(region.tensors - region.inside, key=lambda name: (graph.places.get(name, -1), name))
    joined = [name for name in entries[1:] if _joins(graph, region, name)]
    flattened = [name for name in entries if name not in joined]
    restored, split = dict[str, Shape | str](), dict[str, Shape]()
    for name in sorted(region.inside):
        shapes = _shapes_behind(graph, region, name)
        if shapes is not None:
            split |= shapes
            continue
        back = _way_back(graph, name)
        if back is None:
            return None
        restored[name] = back
    won = sum(_has_bias(graph, node) for node in region.nodes)
    enough = won > len(flattened) + len(restored)
    return _Change(region, flattened, joined, restored, split) if enough else None


def _has_bias(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a constant row is added to a product, and nothing else reads it."""
    if not is_standard(node, "MatMul"):
        return False
    readers = graph.readers.get(node.output[0], [])
    return added_row(readers, graph.constants, graph.width(node.output[0])) is not None


def _joins(graph: Graph, region: Region, name: str) -> bool:
    writer = graph.writers.get(name)
    own = name not in graph.outputs and all(key(reader) in region.keys for reader in graph.readers[name])
    return writer is not None and is_standard(writer, "Reshape") and own


def _shapes_behind(graph: Graph, region: Region, name: str) -> dict[str, Shape] | None:
    """What readers outside of the region make of its tensor, if all of them are Reshape; else None."""
    outside = [node for node in graph.readers.get(name, []) if key(node) not in region.keys]
    shapes = {node.output[0]: _shape_behind(graph, node, name) for node in outside}
    found = {output: shape for output, shape in shapes.items() if shape is not None}
    return found if name not in graph.outputs and len(found) == len(shapes) else None


def _shape_behind(graph: Graph, node: onnx.NodeProto, name: str) -> Shape | None:
    """The shape that a Reshape must have to make the same of a matrix."""
    if not is_standard(node, "Reshape") or node.input[1] == name or attribute(node, "allowzero", 0):
        return None
    constant = graph.constants.get(node.input[1])
    if constant is not None:
        return _OWN if 0 not in array(constant) else _numbers(graph.sizes.get(node.output[0], ()))
    writer = graph.writers.get(node.input[1])
    if writer is None or not is_standard(writer, "Concat"):
        return None
    return _OWN if all(_never_copies(graph, part) for part in writer.input) else None


def _never_copies(graph: Graph, part: str) -> bool:
    """Whether a part of a shape is a constant without zeros, or comes from Shape: a 0 there is a size."""
    while part not in graph.constants:
        writer = graph.writers.get(part)
        if writer is None or writer.domain not in STANDARD:
            return False
        if writer.op_type not in _PASS_SIZES_ON:
            return writer.op_type == "Shape"
        part = writer.input[0]
    return 0 not in array(graph.constants[part])


def _way_back(graph: Graph, name: str) -> Shape | str | None:
    """The shape of a tensor of the region: the first tensor that has it and keeps its axes, else numbers."""
    first = graph.first[graph.sizes[name]]
    writer = graph.writers.get(first)
    keeps = writer is None or not (by_rows(graph, writer) or is_standard(writer, "Reshape"))
    fixed = all(isinstance(size, int) for size in graph.sizes[name])
    return first if keeps and not fixed else _numbers(graph.sizes[name])


def _numbers(sizes: Sequence[Size]) -> Shape | None:
    """A shape of which one size at most follows from the others."""
    found = tuple(-1 if isinstance(size, str) else size for size in sizes)
    return found if found and found.count(-1) <= 1 and 0 not in found else None


def _write(graph: Graph, changes: Sequence[_Change]) -> None:
    proto, added = graph.proto, _Additions(graph.proto)
    shapes = {name: shape for change in changes for name, shape in change.split.items() if shape != _OWN}
    shapes |= {name: (-1, graph.width(name)) for change in changes for name in change.joined}
    for name, shape in shapes.items():
        graph.writers[name].input[1] = added.add(name, shape)
    for name in (name for change in changes for name, shape in change.split.items() if shape == _OWN):
        if graph.writers[name].input[1] not in graph.constants:
            _take_zeros_literally(graph.writers[name])
    replace_nodes(proto, list(_nodes(graph, changes, added)))
    changed = {name for change in changes for name in change.region.inside.union(change.joined)}
    kept = [value for value in proto.value_info if value.name not in changed]
    del proto.value_info[:]
    proto.value_info.extend(kept)


class _Additions:
    """Adds shapes to a graph, and knows which names are taken, by tensors and by nodes."""

    def __init__(self, proto: onnx.GraphProto) -> None:
        self._proto = proto
        self.names = all_names(proto)

    def add(self, name: str, shape: Shape) -> str:
        """A new constant for the shape of a tensor."""
        made = unused_name(f"{name}_shape", self.names)
        self._proto.initializer.append(as_initializer(np.array(shape, np.int64), made))
        return made


def _nodes(graph: Graph, changes: Sequence[_Change], added: _Additions) -> Iterator[onnx.NodeProto]:
    """The nodes of the graph, those of regions between Reshape nodes."""
    owners = {own: change for change in changes for own in change.region.keys}
    outer = {name for change in changes for name in (*change.flattened, *change.restored)}
    inner = {name: unused_name(f"{name}_rows", added.names) for name in sorted(outer)}
    entered = set[str]()
    for node in graph.proto.node:
        change, output = owners.get(key(node)), node.output[0]
        if change is None:
            yield node
            continue
        for name in dict.fromkeys(node.input):
            if name in change.flattened and name not in entered:
                entered.add(name)
                target = added.add(inner[name], (-1, graph.width(name)))
                yield _reshape(name, target, inner[name], added)
        yield _renamed(node, inner)
        if output in change.restored:
            yield from _back(output, inner[output], change.restored[output], added)


def _renamed(node: onnx.NodeProto, inner: Mapping[str, str]) -> onnx.NodeProto:
    node.input[:] = [inner.get(name, name) for name in node.input]
    node.output[0] = inner.get(node.output[0], node.output[0])
    for entry in node.attribute:
        if entry.name == "axis" and entry.i in LAST:
            entry.i = -1
        elif entry.name == "axes":
            entry.ints[:] = [-1]
    return node


def _back(name: str, rows: str, shape: Shape | str, added: _Additions) -> Iterator[onnx.NodeProto]:
    if not isinstance(shape, str):
        yield _reshape(rows, added.add(name, shape), name, added)
        return
    target = unused_name(f"{name}_shape", added.names)
    yield helper.make_node("Shape", [shape], [target], target)
    yield _reshape(rows, target, name, added, literal=True)


def _reshape(
    source: str, shape: str, target: str, added: _Additions, *, literal: bool = False
) -> onnx.NodeProto:
    """With `literal` a 0 in the shape is no copy of a size."""
    name = unused_name(f"{target}_reshape", added.names)
    node = helper.make_node("Reshape", [source, shape], [target], name)
    if literal:
        _take_zeros_literally(node)
    return node


def _take_zeros_literally(node: onnx.NodeProto) -> None:
    del node.attribute[:]  # a Reshape has no other
    node.attribute.append(helper.make_attribute("allowzero", 1))
