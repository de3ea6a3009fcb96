"""Why nodes compute in float, and what makes a quantized model slow, as the runtime runs it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import onnx

from app.domain.report import FloatNodes
from worker.engine.passes.scopes import attribute

NAMED = 6
_WIDE = frozenset({onnx.TensorProto.INT16, onnx.TensorProto.UINT16})
_NIBBLES = frozenset({onnx.TensorProto.INT4, onnx.TensorProto.UINT4})
_WEIGHTED = frozenset({"Conv", "MatMul", "Gemm", "FusedConv", "FusedMatMul", "FusedGemm"})
_PAIRS = ("QuantizeLinear", "DequantizeLinear")
_BLOCKS = frozenset({"MatMulNBits", "MatMulBnb4"})
_FAST_LEVEL = 4  # MatMulNBits' accuracy_level of int8 kernels
Types = Mapping[str, int]
Nodes = Sequence[onnx.NodeProto]


def left_float(floats: Nodes, nodes: Nodes) -> tuple[FloatNodes, ...]:
    """Group the nodes that compute in float by operator and reason.

    Args:
        floats: the nodes that compute in float.
        nodes: all nodes of the optimized graph.
    """
    writers = {name: node for node in nodes for name in node.output}
    groups: dict[tuple[str, str], list[str]] = {}
    for node in floats:
        groups.setdefault((node.op_type, _reason(node, writers)), []).append(node.name or node.output[0])
    ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(FloatNodes(op, why, len(names), tuple(names[:NAMED])) for (op, why), names in ranked)


def _reason(node: onnx.NodeProto, writers: Mapping[str, onnx.NodeProto]) -> str:
    if node.op_type in _BLOCKS:
        return "weights of few bits times float activations"
    if any(name in writers and writers[name].op_type == "DequantizeLinear" for name in node.input):
        weighted = node.op_type in _WEIGHTED
        return "its pairs did not fuse" if weighted else "no integer kernel: its inputs are dequantized"
    return "it was not quantized"


def hindrances(nodes: Nodes, types: Types, integer: int) -> Iterator[str]:
    """What slows a quantized graph down and the recipe that mends it, the gravest first.

    Args:
        nodes: all nodes of the optimized graph.
        types: element type of each tensor.
        integer: how many nodes are integer kernels.
    """
    counts = Counter(node.op_type for node in nodes)
    if counts["ConvInteger"]:
        yield (
            f"{counts['ConvInteger']} Conv run as ConvInteger, several times slower than float Conv: "
            "use static_int8, or leave Conv out"
        )
    yield from _unfused(nodes, types)
    yield from _blocks(nodes)
    if counts["DynamicQuantizeLinear"]:
        yield (
            f"activations are quantized anew at each run ({counts['DynamicQuantizeLinear']} "
            "DynamicQuantizeLinear): static_int8 takes their ranges from calibration"
        )
    pairs = sum(counts[kind] for kind in _PAIRS)
    if integer and pairs > integer:
        yield (
            f"{pairs} QuantizeLinear and DequantizeLinear run beside {integer} integer kernels: "
            "exclude the nodes between which values are converted"
        )
    if integer:
        yield "products are too small: quantizing costs more than integer kernels save; try weight_only"
    elif not any(counts[kind] for kind in _BLOCKS):
        yield "no node runs in an integer kernel, so there is nothing to win: only the size is smaller"


def _unfused(nodes: Nodes, types: Types) -> Iterator[str]:
    writers = {name: node for node in nodes for name in node.output}
    unfused = [n for n in nodes if n.op_type in _WEIGHTED and _reason(n, writers) == "its pairs did not fuse"]
    if not unfused:
        return
    read = [types.get(n.input[0]) for n in nodes if n.op_type == "DequantizeLinear"]
    found = f"{len(unfused)} products run in float between QuantizeLinear and DequantizeLinear"
    if _WIDE & set(read):
        yield f"{found}, for 16-bit activations have no integer kernel on a CPU: use activation uint8"
    elif _NIBBLES & set(read):
        yield f"{found}, for 4-bit weights have no integer kernel there: use weight int8, or weight_only"
    else:
        names = ", ".join(node.name for node in unfused[:NAMED])
        yield f"{found} that did not fuse ({names}): use activation uint8 with weight int8"


def _blocks(nodes: Nodes) -> Iterator[str]:
    tables = sum(node.op_type == "MatMulBnb4" for node in nodes)
    if tables:
        yield f"{tables} MatMulBnb4 widen their weights at each run: use number_format int"
    blocks = [node for node in nodes if node.op_type == "MatMulNBits"]
    widened = [node for node in blocks if attribute(node, "accuracy_level", 0) < _FAST_LEVEL]
    if widened:
        yield f"{len(widened)} MatMulNBits widen their weights at each run: use accuracy_level 4"
    elif blocks:
        yield (
            f"{len(blocks)} MatMulNBits win where few rows are multiplied at a time: "
            "for many rows use dynamic_int8 or static_int8"
        )
