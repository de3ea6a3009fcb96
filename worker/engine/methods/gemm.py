"""Gemm as MatMul and Add, the only form that dynamic quantization has a kernel for."""

import onnx
from onnx import helper

from worker.engine.passes.scopes import (
    all_graphs,
    array,
    as_initializer,
    attribute,
    initializers,
    replace_nodes,
    tensor_names,
    unused_name,
)

_BIAS = 2


def is_plain(node: onnx.NodeProto) -> bool:
    """Whether a Gemm is a product and a sum: no factors, its first operand not transposed."""
    factors = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    return factors == (1.0, 1.0) and not attribute(node, "transA", 0)


def gemm_to_matmul(model: onnx.ModelProto) -> None:
    """Rewrite every plain Gemm, in every scope; the MatMul keeps its name.

    1. Constant weights are transposed where the Gemm transposes, once per tensor however many share it.
       (ONNX Runtime's own rewriting transposes a shared weight twice.)
    2. A Gemm whose transposed weights are no constant of its own scope stays.
    """
    names = tensor_names(model.graph)
    for graph in all_graphs(model.graph):
        constants, transposed = initializers(graph), dict[str, str]()
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            nodes.extend(_rewritten(graph, node, constants, transposed, names))
        replace_nodes(graph, nodes)


def _rewritten(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    transposed: dict[str, str],
    names: set[str],
) -> list[onnx.NodeProto]:
    if node.op_type != "Gemm" or not is_plain(node):
        return [node]
    weight = node.input[1]
    if attribute(node, "transB", 0):
        if weight not in constants:
            return [node]
        if weight not in transposed:
            transposed[weight] = unused_name(f"{weight}_transposed", names)
            graph.initializer.append(as_initializer(array(constants[weight]).T, transposed[weight]))
        weight = transposed[weight]
    if len(node.input) <= _BIAS or not node.input[_BIAS]:
        return [helper.make_node("MatMul", [node.input[0], weight], list(node.output), node.name)]
    product = unused_name(f"{node.output[0]}_product", names)
    return [
        helper.make_node("MatMul", [node.input[0], weight], [product], node.name),
        helper.make_node("Add", [product, node.input[_BIAS]], list(node.output), f"{node.name}_bias"),
    ]
