"""Float nodes read floats where there are any: to round what they read costs accuracy and wins nothing."""

from collections.abc import Collection, Mapping

import onnx

from worker.engine.passes.scopes import consumers, producers, replace_nodes

FLOAT_RESULT = frozenset({"MatMul", "Gemm"})  # MatMulIntegerToFloat and QGemm give floats as quickly as bytes


def leave_results_float(
    graph: onnx.GraphProto, nodes: Collection[str], bounds: Mapping[str, str], given: Collection[str]
) -> None:
    """Drop QuantizeLinear and DequantizeLinear behind products that no integer kernel reads.

    1. A chosen MatMul or Gemm whose result goes through one pair only.
    2. No chosen node reads what that pair gives.
    3. The pair does not stand for a Relu or Clip that is no more: only its range bounds the result then.

    Args:
        graph: of the quantized model; it is changed.
        nodes: names of the nodes that were quantized.
        bounds: names of the Relu and Clip that were quantized, by the node whose result they bound.
        given: what the pairs of the upload itself write; they stay.
    """
    readers, dropped = consumers(graph), set[int]()
    outputs, present = {value.name for value in graph.output}, {node.name for node in graph.node}
    for product in graph.node:
        pair = _pair(product, readers, nodes) if product.op_type in FLOAT_RESULT else None
        if pair is None or product.name not in nodes or product.output[0] in outputs:
            continue
        if product.name in bounds and bounds[product.name] not in present:
            continue
        rounded, restored = pair
        if restored.output[0] in given:
            continue
        dropped |= {id(rounded), id(restored)}
        if restored.output[0] in outputs:
            product.output[0] = restored.output[0]
        for node in readers.get(restored.output[0], []):
            _reconnect(node, restored.output[0], product.output[0])
    replace_nodes(graph, [node for node in graph.node if id(node) not in dropped])


def read_floats(graph: onnx.GraphProto, nodes: Collection[str], given: Collection[str]) -> None:
    """Let float nodes read what float nodes write, and not the rounded copy that integer kernels read.

    The residual sums of a transformer are such readers: their input is rounded for the products beside them.

    Args:
        graph: of the quantized model; it is changed.
        nodes: names of the nodes that were quantized.
        given: what the pairs of the upload itself write; they round for everyone.
    """
    makers, readers = producers(graph), consumers(graph)
    for restored in graph.node:
        rounded = makers.get(restored.input[0]) if restored.op_type == "DequantizeLinear" else None
        if rounded is None or rounded.op_type != "QuantizeLinear" or restored.output[0] in given:
            continue
        maker = makers.get(rounded.input[0])
        if maker is not None and (maker.name in nodes or maker.op_type == "DequantizeLinear"):
            continue
        for node in readers.get(restored.output[0], []):
            if node.name not in nodes and node.op_type != "QuantizeLinear":
                _reconnect(node, restored.output[0], rounded.input[0])


def _pair(
    product: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], nodes: Collection[str]
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    chain = [product]
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        following = readers.get(chain[-1].output[0], [])
        if [node.op_type for node in following] != [kind]:
            return None
        chain += following
    _, rounded, restored = chain
    behind = readers.get(restored.output[0], [])
    integer = any(node.name in nodes or node.op_type == "QuantizeLinear" for node in behind)
    return None if integer else (rounded, restored)


def _reconnect(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new
