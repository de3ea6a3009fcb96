"""Which nodes become integer kernels together: an island has no float node that it could do without."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import onnx

from worker.engine.passes.scopes import FLOATS, all_nodes, attribute, initializers, names_used, tensor_types

WEIGHTED = frozenset({"Conv", "MatMul", "Gemm"})
ABSORBED = frozenset({"Relu", "Clip"})
ARITHMETIC = frozenset(
    {"Add", "Mul", "Concat", "Sigmoid", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"}
)
MOVERS = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Resize", "Pad"}
)
SUPPORTED = WEIGHTED | ABSORBED | ARITHMETIC | MOVERS
_BIAS = 2


@dataclass(frozen=True)
class Graph:
    """What is asked about a graph over and over, looked up once."""

    proto: onnx.GraphProto
    ranged: AbstractSet[str]  # tensors with a calibrated range
    constants: Mapping[str, onnx.TensorProto]
    types: Mapping[str, int]

    @classmethod
    def of(cls, proto: onnx.GraphProto, ranged: AbstractSet[str]) -> "Graph":
        """Look all up."""
        return cls(proto, ranged, initializers(proto), tensor_types(proto))

    def is_float(self, tensor: str) -> bool:
        """Whether a tensor is known to hold float32 or float16."""
        return self.types.get(tensor) in FLOATS


@dataclass
class Islands:
    """Names of the nodes that are quantized, and why each other one is not."""

    nodes: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def islands(graph: Graph, wanted: Callable[[onnx.NodeProto], str | None], *, grow: bool) -> Islands:
    """Choose the nodes to quantize, in the order of the graph.

    1. Conv, MatMul and Gemm are chosen where their kernels allow it.
    2. Relu and Clip are chosen after a chosen node: they cost nothing there.
    3. With `grow`, arithmetic and moves of data are chosen that read a chosen node and that a weighted node
       reads in the end: behind the last one they would cost accuracy and win no time.

    Args:
        graph: the prepared graph.
        wanted: a reason why the user does not want a node quantized, or None.
        grow: whether islands grow beyond the weighted operators.
    """
    found = Islands()
    chosen: set[str] = set()
    leading = _before_weights(graph.proto)
    for node in graph.proto.node:
        reason = wanted(node) or _hindrance(graph, node) or _alone(graph, node, chosen, grow=grow)
        reason = reason or _trailing(node, leading)
        if reason is None:
            found.nodes.append(node.name)
            chosen.update(node.output)
        elif reason and _computes_floats(graph, node):
            found.reasons[node.name] = reason
    found.reasons.update(_below(graph.proto))
    return found


def _computes_floats(graph: Graph, node: onnx.NodeProto) -> bool:
    return any(graph.is_float(name) for name in node.output) and node.op_type != "Constant"


def _below(graph: onnx.GraphProto) -> dict[str, str]:
    top = {node.name for node in graph.node}
    inner = (node for node in all_nodes(graph) if node.name not in top and node.op_type in WEIGHTED)
    return {node.name: "inside a subgraph" for node in inner}


def _hindrance(graph: Graph, node: onnx.NodeProto) -> str | None:
    """Why no integer kernel can run this node."""
    if node.domain or node.op_type not in SUPPORTED:
        return f"{node.op_type} has no integer kernel"
    rule = _RULES.get(node.op_type)
    return (rule(graph, node) if rule else None) or _without_range(graph, node)


def _without_range(graph: Graph, node: onnx.NodeProto) -> str | None:
    if not graph.is_float(node.output[0]):
        return "not a float tensor"
    for name in (*node.input, *node.output):
        computed = name and name not in graph.constants and graph.is_float(name)
        if computed and name not in graph.ranged:
            return "a tensor has no finite range in calibration"
    return None


def _conv(graph: Graph, node: onnx.NodeProto) -> str | None:
    if not _is_float_constant(graph, node.input[1]):
        return "its weights are computed"
    return _bias(graph, node)


def _gemm(graph: Graph, node: onnx.NodeProto) -> str | None:
    if attribute(node, "alpha", 1.0) != 1.0:
        return "alpha is not 1"
    return _conv(graph, node)


def _bias(graph: Graph, node: onnx.NodeProto) -> str | None:
    if len(node.input) <= _BIAS or not node.input[_BIAS]:
        return None
    bias = graph.constants.get(node.input[_BIAS])
    if bias is None:
        return "its bias is computed"
    return None if len(bias.dims) == 1 and bias.data_type in FLOATS else "its bias is not a row of floats"


def _matmul(graph: Graph, node: onnx.NodeProto) -> str | None:
    if node.input[0] in graph.constants:
        return "its first operand is constant"
    weight = graph.constants.get(node.input[1])
    return "its weights are not a matrix" if weight is not None and len(weight.dims) != 2 else None  # noqa: PLR2004


def has_weights(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a node multiplies by a constant."""
    return node.op_type in WEIGHTED and node.input[1] in constants


def _is_float_constant(graph: Graph, name: str) -> bool:
    return name in graph.constants and graph.constants[name].data_type in FLOATS


def _maxpool(_: Graph, node: onnx.NodeProto) -> str | None:
    return "MaxPool gives indices too" if len(node.output) > 1 and node.output[1] else None


def _resize(_: Graph, node: onnx.NodeProto) -> str | None:
    mode = attribute(node, "mode", b"nearest")
    return None if mode == b"nearest" else f"Resize by {mode.decode()} has no integer kernel"


_RULES: dict[str, Callable[[Graph, onnx.NodeProto], str | None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MaxPool": _maxpool,
    "Resize": _resize,
}


def _before_weights(graph: onnx.GraphProto) -> set[str]:
    """Tensors that a weighted node reads, or that lead to one."""
    leading: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in WEIGHTED or leading & set(node.output):
            leading.update(names_used(node))
    return leading


def _trailing(node: onnx.NodeProto, leading: AbstractSet[str]) -> str | None:
    if node.op_type in WEIGHTED | ABSORBED or leading & set(node.output):
        return None
    return "behind the last weighted node"


def _alone(graph: Graph, node: onnx.NodeProto, chosen: AbstractSet[str], *, grow: bool) -> str | None:
    if node.op_type in WEIGHTED:
        weighted = node.input[1] in graph.constants
        return None if weighted or (grow and chosen & set(node.input)) else "it multiplies two activations"
    if not grow and node.op_type not in ABSORBED:
        return "in a transformer only weighted products are quantized"
    first = node.input[:1] if node.op_type not in ARITHMETIC else node.input
    return None if chosen & set(first) else "its inputs are float"
