"""Which nodes become integer kernels together: an island has no float node that it could do without."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import onnx

from worker.engine.passes.pairs import DEQUANTIZE, is_by_column, is_whole
from worker.engine.passes.scopes import (
    FLOATS,
    all_nodes,
    array,
    attribute,
    initializers,
    producers,
    subgraphs,
    tensor_types,
)

WEIGHTED = frozenset({"Conv", "MatMul", "Gemm"})
ABSORBED = frozenset({"Relu", "Clip"})
ARITHMETIC = frozenset(
    {"Add", "Mul", "Concat", "Sigmoid", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"}
)
MOVERS = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Resize", "Pad"}
)
PAIRED = frozenset({"Add", "Mul"})  # to round a float operand for them would cost accuracy and win no time
SUPPORTED = WEIGHTED | ABSORBED | ARITHMETIC | MOVERS
_ROUNDING = ARITHMETIC - {"MaxPool", "AveragePool"}  # what they read may be float: it is rounded for them
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_BIAS = 2


@dataclass(frozen=True)
class RangedGraph:
    """What is asked about a graph over and over, looked up once."""

    proto: onnx.GraphProto
    ranged: AbstractSet[str]  # tensors with a calibrated range
    constants: Mapping[str, onnx.TensorProto]
    types: Mapping[str, int]
    makers: Mapping[str, onnx.NodeProto]

    @classmethod
    def of(cls, proto: onnx.GraphProto, ranged: AbstractSet[str]) -> "RangedGraph":
        """Look all up."""
        return cls(proto, ranged, initializers(proto), tensor_types(proto), producers(proto))

    def is_float(self, tensor: str) -> bool:
        """Whether a tensor is known to hold float32 or float16."""
        return self.types.get(tensor) in FLOATS


@dataclass
class Islands:
    """Names of the nodes that are quantized, and why each other one is not."""

    nodes: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def islands(
    graph: RangedGraph,
    wanted: Callable[[onnx.NodeProto], str | None],
    *,
    grow: bool,
    asked: AbstractSet[str] = frozenset(),
) -> Islands:
    """Choose the nodes to quantize, in the order of the graph.

    1. Conv, MatMul and Gemm are chosen where their kernels allow it.
    2. Relu and Clip are chosen after a chosen node: they cost nothing there.
    3. With `grow`, arithmetic and moves of data are chosen that read a chosen node and that a chosen node
       reads in the end: before a float node they would cost accuracy and win no time.
    4. Nodes that were asked for by hand are chosen wherever they can be, also beside float nodes.

    Args:
        graph: the prepared graph.
        wanted: a reason why the user does not want a node quantized, or None.
        grow: whether islands grow beyond the weighted operators.
        asked: names of the nodes that were asked for by hand.
    """
    found = Islands()
    chosen: set[str] = set()
    for node in graph.proto.node:
        alone = None if node.name in asked and node.op_type in _ROUNDING else _alone
        reason = wanted(node) or _hindrance(graph, node) or (alone and alone(graph, node, chosen, grow=grow))
        if reason is None:
            found.nodes.append(node.name)
            chosen.update(node.output)
        elif reason and _computes_floats(graph, node):
            found.reasons[node.name] = reason
    _trim(graph.proto, found, asked)
    found.reasons.update(_below(graph.proto))
    return found


def _trim(graph: onnx.GraphProto, found: Islands, asked: AbstractSet[str]) -> None:
    """Give up what only float nodes read: its own kernel would be rounded for nothing."""
    makers, kept = producers(graph), set[str]()
    names = set(found.nodes)
    read: set[str] = set()
    for node in reversed(graph.node):
        if node.name not in names:
            continue
        maker = makers.get(node.input[0])
        absorbed = node.op_type in ABSORBED and maker is not None and maker.op_type in WEIGHTED
        if node.name in asked or node.op_type in WEIGHTED or absorbed or read & set(node.output):
            kept.add(node.name)
            read.update(node.input)
    found.reasons.update((name, "only float nodes read it") for name in found.nodes if name not in kept)
    found.nodes = [name for name in found.nodes if name in kept]


def _computes_floats(graph: RangedGraph, node: onnx.NodeProto) -> bool:
    """Whether it does itself: a node with subgraphs leaves that to what is in them."""
    itself = node.op_type != "Constant" and not any(subgraphs(node))
    return itself and any(graph.is_float(name) for name in node.output)


def _below(graph: onnx.GraphProto) -> dict[str, str]:
    """Calibration sees no tensor of a subgraph, so what computes there stays float."""
    return {
        inner.name: f"inside a subgraph ({node.op_type} {node.name}), which calibration does not see"
        for node in graph.node
        for below in subgraphs(node)
        for inner in all_nodes(below)
        if inner.op_type in WEIGHTED | _RECURRENT
    }


def _hindrance(graph: RangedGraph, node: onnx.NodeProto) -> str | None:
    """Why no integer kernel can run this node."""
    if node.domain or node.op_type not in SUPPORTED:
        return f"{node.op_type} has no integer kernel"
    if graph.types.get(node.output[0]) == onnx.TensorProto.FLOAT16:
        return "it computes in float16"
    rule = _RULES.get(node.op_type)
    return (rule(graph, node) if rule else None) or _given(graph, node) or _without_range(graph, node)


def _given(graph: RangedGraph, node: onnx.NodeProto) -> str | None:
    """Why its kernel cannot read what the upload itself quantized; that is not rounded a second time."""
    for place, name in enumerate(node.input):
        pair = graph.makers.get(name)
        if pair is None or pair.op_type != DEQUANTIZE or is_whole(pair, graph.constants):
            continue
        if node.op_type != "MatMul" or place == 0 or not is_by_column(pair, graph.constants):
            return f"what {pair.name} gives it has not one constant scale of 8 or 16 bits"
    return None


def _without_range(graph: RangedGraph, node: onnx.NodeProto) -> str | None:
    if not graph.is_float(node.output[0]):
        return "not a float tensor"
    for name in (*node.input, *node.output):
        computed = name and name not in graph.constants and graph.is_float(name)
        if computed and name not in graph.ranged:
            return "a tensor has no finite range in calibration"
    return None


def _conv(graph: RangedGraph, node: onnx.NodeProto) -> str | None:
    if not _is_float_constant(graph, node.input[1]):
        return "its weights are computed"
    return _bias(graph, node)


def _gemm(graph: RangedGraph, node: onnx.NodeProto) -> str | None:
    if attribute(node, "alpha", 1.0) != 1.0:
        return "alpha is not 1"
    return _conv(graph, node)


def _bias(graph: RangedGraph, node: onnx.NodeProto) -> str | None:
    if len(node.input) <= _BIAS or not node.input[_BIAS]:
        return None
    bias = graph.constants.get(node.input[_BIAS])
    if bias is None:
        return "its bias is computed"
    return None if len(bias.dims) == 1 and bias.data_type in FLOATS else "its bias is not a row of floats"


def _matmul(graph: RangedGraph, node: onnx.NodeProto) -> str | None:
    if node.input[0] in graph.constants:
        return "its first operand is constant"
    weight = graph.constants.get(node.input[1])
    return "its weights are not a matrix" if weight is not None and len(weight.dims) != 2 else None  # noqa: PLR2004


def has_weights(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a node multiplies by a constant."""
    return node.op_type in WEIGHTED and node.input[1] in constants


def _is_float_constant(graph: RangedGraph, name: str) -> bool:
    return name in graph.constants and graph.constants[name].data_type in FLOATS


def _clip(graph: RangedGraph, node: onnx.NodeProto) -> str | None:
    """A chosen Clip becomes the range of its result, and a range of integers always holds 0."""
    limits = [name for name in node.input[1:] if name]
    if any(name not in graph.constants for name in limits):
        return "its bounds are computed"
    lowest, highest = (_limit(graph, node, index, name) for index, name in enumerate(("min", "max"), start=1))
    return "its bounds leave out 0, which integers always hold" if lowest > 0 or highest < 0 else None


def _limit(graph: RangedGraph, node: onnx.NodeProto, index: int, name: str) -> float:
    """A bound of a Clip, an attribute before opset 11; 0 where there is none."""
    if len(node.input) > index and node.input[index]:
        return float(array(graph.constants[node.input[index]]).item())
    return float(attribute(node, name, 0.0))


def _maxpool(_: RangedGraph, node: onnx.NodeProto) -> str | None:
    return "MaxPool gives indices too" if len(node.output) > 1 and node.output[1] else None


def _resize(_: RangedGraph, node: onnx.NodeProto) -> str | None:
    mode = attribute(node, "mode", b"nearest")
    return None if mode == b"nearest" else f"Resize by {mode.decode()} has no integer kernel"


_RULES: dict[str, Callable[[RangedGraph, onnx.NodeProto], str | None]] = {
    "Clip": _clip,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MaxPool": _maxpool,
    "Resize": _resize,
}


def _alone(graph: RangedGraph, node: onnx.NodeProto, chosen: AbstractSet[str], *, grow: bool) -> str | None:
    if node.op_type in WEIGHTED:
        weighted = node.input[1] in graph.constants
        return None if weighted or (grow and chosen & set(node.input)) else "it multiplies two activations"
    if not grow and node.op_type not in ABSORBED:
        return "in a transformer only weighted products are quantized"
    first = node.input[:1] if node.op_type not in ARITHMETIC else node.input
    if not chosen & set(first):
        return "its inputs are float"
    computed = {name for name in node.input if name and name not in graph.constants}
    return "one of its inputs is float" if node.op_type in PAIRED and computed - chosen else None
