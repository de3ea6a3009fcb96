"""Regions of a graph whose nodes treat each row by itself: samples, tokens, and a row of channels."""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

import onnx

from worker.engine.passes.scopes import (
    FLOATS,
    STANDARD,
    attribute,
    consumers,
    initializers,
    is_standard,
    key,
    producers,
    tensor_types,
)
from worker.engine.passes.shapes import Size, Sizes, first_of_each, known_sizes

AXES = 3
_MATRIX = 2
LAST = frozenset({-1, AXES - 1})
_UNARY = frozenset(
    {"Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Neg", "Reciprocal"}
    | {"Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh"}
)
_BINARY = frozenset({"Add", "Div", "Mul", "Pow", "Sub"})


@dataclass(frozen=True)
class Graph:
    """What is asked about a graph over and over, looked up once.

    Attributes:
        proto: the graph itself.
        sizes: shapes of tensors, as far as they are known.
        first: the first tensor of each shape.
        types: element types of tensors.
        constants: by name.
        writers: the node that writes a tensor.
        readers: the nodes that read a tensor, a node once per time.
        outputs: of the graph.
        places: of the nodes that write tensors.
    """

    proto: onnx.GraphProto
    sizes: Sizes
    first: Mapping[tuple[Size, ...], str]
    types: Mapping[str, int]
    constants: Mapping[str, onnx.TensorProto]
    writers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, list[onnx.NodeProto]]
    outputs: AbstractSet[str]
    places: Mapping[str, int]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> "Graph":
        """Look all up."""
        proto, constants = model.graph, initializers(model.graph)
        sizes = _with_widths(proto, constants, known_sizes(model))
        return cls(
            proto=proto,
            sizes=sizes,
            first=first_of_each(proto, sizes),
            types=tensor_types(proto),
            constants=constants,
            writers=producers(proto),
            readers=consumers(proto),
            outputs={value.name for value in proto.output},
            places={name: place for place, node in enumerate(proto.node) for name in node.output},
        )

    def rows(self, name: str) -> tuple[Size, ...] | None:
        """The first two sizes of a computed float tensor of three axes whose rows have a known width."""
        sizes = self.sizes.get(name, ())
        if len(sizes) != AXES or not isinstance(sizes[-1], int) or name in self.constants:
            return None
        return sizes[:-1] if self.types.get(name) in FLOATS else None

    def width(self, name: str) -> int:
        """The number of values in each row of a tensor that has rows."""
        return int(self.sizes[name][-1])


def _with_widths(proto: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto], sizes: Sizes) -> Sizes:
    """What a constant matrix multiplies is as wide as the matrix is high."""
    found = dict(sizes)
    for node in proto.node:
        matrix = _matrix(constants, node) if is_standard(node, "MatMul") else None
        if matrix is not None and len(found.get(node.input[0], ())) == AXES:
            found[node.input[0]] = (*found[node.input[0]][:-1], matrix.dims[0])
    return found


@dataclass(frozen=True)
class Region:
    """Connected nodes that treat each row by itself, and the tensors with rows that they read and write."""

    nodes: tuple[onnx.NodeProto, ...]
    tensors: frozenset[str]

    @cached_property
    def inside(self) -> frozenset[str]:
        """What it writes."""
        return frozenset(node.output[0] for node in self.nodes)

    @cached_property
    def keys(self) -> frozenset[tuple[str, ...]]:
        """Its nodes."""
        return frozenset(key(node) for node in self.nodes)


def regions(graph: Graph) -> list[Region]:
    """All regions of the main graph."""
    nodes = {node.output[0]: node for node in graph.proto.node if by_rows(graph, node)}
    near: dict[str, list[str]] = {}
    for output, node in nodes.items():
        for name in filter(graph.rows, node.input):
            near.setdefault(output, []).append(name)
            near.setdefault(name, []).append(output)
    found, seen = list[Region](), set[str]()
    for output in nodes:
        if output not in seen:
            tensors = frozenset(_reached(near, output))
            seen |= tensors
            found.append(Region(tuple(node for name, node in nodes.items() if name in tensors), tensors))
    return found


def _reached(near: Mapping[str, list[str]], start: str) -> set[str]:
    """All that is connected to a tensor, and itself."""
    reached, waiting = {start}, [start]
    while waiting:
        fresh = set(near[waiting.pop()]) - reached
        reached |= fresh
        waiting.extend(fresh)
    return reached


def by_rows(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node treats each row of three axes by itself."""
    rule = _RULES.get(node.op_type) if node.domain in STANDARD else None
    rows = graph.rows(node.output[0]) if rule else None
    if rule is None or rows is None or any(node.output[1:]):
        return False
    computed = list(_computed(graph, node))
    return bool(computed) and all(graph.rows(name) == rows for name in computed) and rule(graph, node)


def _computed(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    return (name for name in node.input if name and name not in graph.constants)


def _matrix(constants: Mapping[str, onnx.TensorProto], product: onnx.NodeProto) -> onnx.TensorProto | None:
    """The constant matrix that a product multiplies by."""
    weight = constants.get(product.input[1])
    return weight if weight is not None and len(weight.dims) == _MATRIX else None


def _product(graph: Graph, node: onnx.NodeProto) -> bool:
    return _matrix(graph.constants, node) is not None


def _with_rows(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether its constants are single values or rows, which mean the same beside a matrix."""
    return all(len(graph.constants[name].dims) <= 1 for name in node.input if name in graph.constants)


def _normalization(graph: Graph, node: onnx.NodeProto) -> bool:
    return attribute(node, "axis", -1) in LAST and _with_rows(graph, node)


def _mean(_: Graph, node: onnx.NodeProto) -> bool:
    axes = attribute(node, "axes", [])
    return len(axes) == 1 and axes[0] in LAST and attribute(node, "keepdims", 1) == 1


_RULES: Mapping[str, Callable[[Graph, onnx.NodeProto], bool]] = {
    "MatMul": _product,
    "LayerNormalization": _normalization,
    "ReduceMean": _mean,
    **dict.fromkeys(_UNARY | _BINARY, _with_rows),
}
