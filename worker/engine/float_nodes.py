"""Which nodes compute in float, and why."""

import re
from collections.abc import Iterator, Mapping, Sequence

import onnx

from app.domain.report import FloatNodes

NAMED = 6
PRODUCTS = frozenset({"Conv", "MatMul", "Gemm", "FusedConv", "FusedMatMul", "FusedGemm"})
UNFUSED = "its pairs did not fuse"
_BLOCKS = frozenset({"MatMulNBits", "MatMulBnb4"})
_SUMS = frozenset({"ConvInteger", "MatMulInteger"})
_CARRIERS = frozenset({"Cast", "Mul", "DynamicQuantizeLinear"})
_WITH_KERNEL = (
    frozenset(
        {
            "Add",
            "AveragePool",
            "Concat",
            "GlobalAveragePool",
            "LSTM",
            "LeakyRelu",
            "MaxPool",
            "Mul",
            "Relu",
            "Clip",
        }
        | {"Sigmoid", "Softmax", "Where", "Attention"}
    )
    | PRODUCTS
)
_SUFFIXES = re.compile(r"(_token_\d+|_nchwc|/(MatMulScaleFusion|MatMulAddFusion)/?)+$")
Nodes = Sequence[onnx.NodeProto]


def left_float(floats: Nodes, nodes: Nodes) -> tuple[FloatNodes, ...]:
    """Group the nodes that compute in float by operator and reason.

    Args:
        floats: the nodes that compute in float.
        nodes: all nodes of the optimized graph.
    """
    writers = writers_of(nodes)
    groups: dict[tuple[str, str], list[str]] = {}
    for node in floats:
        groups.setdefault((node.op_type, _reason(node, writers)), []).append(name_of(node))
    ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(FloatNodes(op, why, len(names), tuple(names[:NAMED])) for (op, why), names in ranked)


def name_of(node: onnx.NodeProto) -> str:
    """The name that a node had before the runtime optimized the graph, as far as that can be told."""
    return _SUFFIXES.sub("", node.name) or node.output[0]


def writers_of(nodes: Nodes) -> dict[str, onnx.NodeProto]:
    """For each tensor the node that writes it."""
    return {name: node for node in nodes for name in node.output}


def unfused(nodes: Nodes) -> Iterator[onnx.NodeProto]:
    """Products that compute in float on dequantized operands."""
    writers = writers_of(nodes)
    return (node for node in nodes if node.op_type in PRODUCTS and _reason(node, writers) == UNFUSED)


def _reason(node: onnx.NodeProto, writers: Mapping[str, onnx.NodeProto]) -> str:
    if node.op_type in _BLOCKS:
        return "weights of few bits times float activations"
    computed = [writers[name].op_type for name in node.input if name in writers]
    if "DequantizeLinear" in computed:
        return _why_dequantized(node, computed)
    if _scales_sums(node, writers):
        return "it scales what an integer kernel sums"
    return "it was not quantized" if node.op_type in _WITH_KERNEL else "it has no integer kernel"


def _why_dequantized(node: onnx.NodeProto, makers: Sequence[str]) -> str:
    if node.op_type in PRODUCTS:
        return UNFUSED
    if node.op_type not in _WITH_KERNEL:
        return "no integer kernel: its inputs are dequantized"
    mixed = any(maker != "DequantizeLinear" for maker in makers)
    return "one of its inputs is float" if mixed else "it was not quantized"


def _scales_sums(node: onnx.NodeProto, writers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether it stands between sums of integers, or the scales of these, and the float result."""
    if node.op_type != "Mul":
        return False
    waiting = list(node.input)
    while waiting:
        writer = writers.get(waiting.pop())
        if writer is None:
            continue
        if writer.op_type in _SUMS or writer.op_type == "DynamicQuantizeLinear":
            return True
        if writer.op_type in _CARRIERS:
            waiting.extend(writer.input)
    return False
