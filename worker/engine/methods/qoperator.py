"""Operators on integers in the place of Q/DQ pairs: the rewriting that the runtime does when it loads Q/DQ.

Done here it gives the same kernels and the same values, in a file of QLinear operators. Where a float node
stays, its Q/DQ pairs stay around it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import onnx
from onnx import helper

from worker.engine.contrib import MICROSOFT
from worker.engine.passes.pairs import DEQUANTIZE, QUANTIZE, is_whole
from worker.engine.passes.scopes import (
    attribute,
    consumers,
    drop_attribute,
    initializers,
    producers,
    replace_nodes,
)

MOVES = frozenset({"Flatten", "MaxPool", "Reshape", "Resize", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
ALIKE = frozenset({"Add", "Mul", "Concat"})  # their operators take no operands of unlike types


@dataclass(frozen=True)
class Integers:
    """A quantized tensor: its name, and the names of its scale and zero point."""

    name: str
    scale: str
    zero_point: str

    @property
    def all(self) -> tuple[str, str, str]:
        """As operators take it."""
        return self.name, self.scale, self.zero_point

    def like(self, other: "Integers") -> bool:
        """Whether both have the same scale and zero point."""
        return (self.scale, self.zero_point) == (other.scale, other.zero_point)


Sources = list[Integers | None]
Builder = Callable[[onnx.NodeProto, Sources, Integers | None], onnx.NodeProto | None]


def to_operators(model: onnx.ModelProto, chosen: Collection[str]) -> None:
    """Rewrite every node that was quantized and has an operator on integers, in place.

    Args:
        model: with pairs of QuantizeLinear and DequantizeLinear.
        chosen: names of the nodes that were quantized; what the upload brought along stays.
    """
    graph = model.graph
    made, readers = producers(graph), consumers(graph)
    outputs = {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    constants = initializers(graph)
    for node in graph.node:
        if node.name not in chosen:
            nodes.append(node)
            continue
        sources = [_source(made.get(name)) for name in node.input]
        sink = None if node.output[0] in outputs else _sink(readers.get(node.output[0], []), constants)
        new = _built(node, sources, sink, _kinds(constants, node, sources, sink))
        if new is not None and sink and new.output[0] == sink.name:
            replaced.add(readers[node.output[0]][0].name)
        nodes.append(new or node)
    replace_nodes(graph, [node for node in nodes if node.name not in replaced])
    drop_idle(graph)


def drop_idle(graph: onnx.GraphProto) -> None:
    """Drop Q and DQ whose result nobody reads, and constants without a reader."""
    wanted = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        pair = node.op_type in {"QuantizeLinear", "DequantizeLinear"}
        if not pair or wanted & set(node.output):
            kept.append(node)
            wanted.update(consumers_of(node))
    replace_nodes(graph, reversed(kept))
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def consumers_of(node: onnx.NodeProto) -> set[str]:
    """What a node reads, its subgraphs included."""
    return {name for name in consumers(onnx.GraphProto(node=[node])) if name}


def _source(node: onnx.NodeProto | None) -> Integers | None:
    return Integers(*node.input) if node is not None and node.op_type == DEQUANTIZE else None


def _sink(readers: list[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]) -> Integers | None:
    if len(readers) != 1 or readers[0].op_type != QUANTIZE or not is_whole(readers[0], constants):
        return None
    quantize = readers[0]
    return Integers(quantize.output[0], quantize.input[1], quantize.input[2])


def _kinds(
    constants: Mapping[str, onnx.TensorProto], node: onnx.NodeProto, sources: Sources, sink: Integers | None
) -> list[int]:
    """Element types of what the operands of one type and the output hold, where they are quantized."""
    alike = sources if node.op_type in ALIKE else sources[:1]
    return [constants[i.zero_point].data_type for i in (*alike, sink) if i]


def _built(
    node: onnx.NodeProto, sources: Sources, sink: Integers | None, kinds: list[int]
) -> onnx.NodeProto | None:
    builder = _move if node.op_type in MOVES else _BUILDERS.get(node.op_type)
    if builder is None or not sources or sources[0] is None or len(set(kinds)) != 1:
        return None
    return builder(node, sources, sink)


def _make(
    node: onnx.NodeProto, op_type: str, inputs: list[str], output: str, domain: str = "", **extra: int
) -> onnx.NodeProto:
    made = helper.make_node(op_type, inputs, [output], node.name, domain=domain)
    made.attribute.extend(helper.make_attribute(name, value) for name, value in extra.items())
    made.attribute.extend(entry for entry in node.attribute if entry.name not in extra)
    return made


def _conv(node: onnx.NodeProto, sources: Sources, sink: Integers | None) -> onnx.NodeProto | None:
    x, w, *bias = sources
    if not (x and w and sink) or None in bias:
        return None
    inputs = [*x.all, *w.all, sink.scale, sink.zero_point, *(b.name for b in bias if b)]
    return _make(node, "QLinearConv", inputs, sink.name)


def _matmul(node: onnx.NodeProto, sources: Sources, sink: Integers | None) -> onnx.NodeProto | None:
    a, b = sources
    if not (a and b):
        return None
    if sink:
        return _make(node, "QLinearMatMul", [*a.all, *b.all, sink.scale, sink.zero_point], sink.name)
    inputs = [a.name, b.name, a.scale, b.scale, a.zero_point, b.zero_point]
    return _make(node, "MatMulIntegerToFloat", inputs, node.output[0], MICROSOFT)


def _gemm(node: onnx.NodeProto, sources: Sources, sink: Integers | None) -> onnx.NodeProto | None:
    a, b, *bias = sources
    if not (a and b) or None in bias:
        return None
    inputs = [*a.all, *b.all, bias[0].name if bias and bias[0] else ""]
    inputs += [sink.scale, sink.zero_point] if sink else []
    made = _make(node, "QGemm", inputs, sink.name if sink else node.output[0], MICROSOFT)
    drop_attribute(made, "beta")
    return made


def _pair(node: onnx.NodeProto, sources: Sources, sink: Integers | None) -> onnx.NodeProto | None:
    a, b = sources
    if not (a and b and sink):
        return None
    inputs = [*a.all, *b.all, sink.scale, sink.zero_point]
    return _make(node, f"QLinear{node.op_type}", inputs, sink.name, MICROSOFT)


def _one(node: onnx.NodeProto, sources: Sources, sink: Integers | None) -> onnx.NodeProto | None:
    x = sources[0]
    if not (x and sink) or attribute(node, "dilations", None):
        return None
    extra = {"channels_last": 0} if node.op_type == "GlobalAveragePool" else {}
    inputs = [*x.all, sink.scale, sink.zero_point]
    return _make(node, f"QLinear{node.op_type}", inputs, sink.name, MICROSOFT, **extra)


def _concat(node: onnx.NodeProto, sources: Sources, sink: Integers | None) -> onnx.NodeProto | None:
    if None in sources or not sink:
        return None
    inputs = [sink.scale, sink.zero_point, *(name for source in sources if source for name in source.all)]
    return _make(node, "QLinearConcat", inputs, sink.name, MICROSOFT)


def _move(node: onnx.NodeProto, sources: Sources, sink: Integers | None) -> onnx.NodeProto | None:
    x = sources[0]
    if not (x and sink and x.like(sink)):
        return None
    return _make(node, node.op_type, [x.name, *node.input[1:]], sink.name)


_BUILDERS: Mapping[str, Builder] = {
    "Conv": _conv,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Add": _pair,
    "Mul": _pair,
    "Sigmoid": _one,
    "LeakyRelu": _one,
    "AveragePool": _one,
    "GlobalAveragePool": _one,
    "Concat": _concat,
}
