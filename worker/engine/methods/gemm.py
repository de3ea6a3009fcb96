"""Gemm as MatMul and Add, the only form that dynamic quantization has a kernel for; and the way back.

The way back is for static quantization: QGemm adds the bias before it rounds, in one kernel for two.
"""

from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import helper

from worker.engine.passes.biases import added_row
from worker.engine.passes.scopes import (
    all_graphs,
    all_names,
    array,
    as_initializer,
    attribute,
    consumers,
    initializers,
    replace_nodes,
    tensor_ranks,
    unused_name,
)

_BIAS = 2
_MATRIX = 2


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
    names = all_names(model.graph)
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
    product, adding = unused_name(f"{node.output[0]}_product", names), unused_name(f"{node.name}_bias", names)
    return [
        helper.make_node("MatMul", [node.input[0], weight], [product], node.name),
        helper.make_node("Add", [product, node.input[_BIAS]], list(node.output), adding),
    ]


def matmul_to_gemm(graph: onnx.GraphProto, unwanted: Callable[[onnx.NodeProto], object]) -> None:
    """Rewrite every MatMul of two matrices whose result only an Add of a constant row reads.

    1. The Gemm keeps the MatMul's name and writes what the Add wrote.
    2. Its second matrix is a constant, and the row has one value for each of that matrix's columns.
    3. A product that is an output of the graph, or half of a pair that somebody does not want, stays.

    Args:
        graph: of the prepared model, with ranks recorded; it is changed.
        unwanted: whether a node must stay as it is.
    """
    constants, readers, ranks = initializers(graph), consumers(graph), tensor_ranks(graph)
    outputs = {value.name for value in graph.output}
    joined: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        row = _row(node, readers.get(node.output[0], []), constants, ranks) if node.output else None
        if row is None or node.output[0] in outputs or unwanted(node):
            continue
        adding = readers[node.output[0]][0]
        if not unwanted(adding):
            joined[node.output[0]] = helper.make_node("Gemm", [*node.input, row], adding.output, node.name)
            joined[adding.output[0]] = joined[node.output[0]]
    replace_nodes(graph, _placed(graph, joined))


def _row(
    node: onnx.NodeProto,
    readers: Sequence[onnx.NodeProto],
    constants: Mapping[str, onnx.TensorProto],
    ranks: Mapping[str, int],
) -> str | None:
    """The constant that is added to a product of two matrices, and to nothing else."""
    weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
    if weight is None or len(weight.dims) != _MATRIX or ranks.get(node.input[0]) != _MATRIX:
        return None
    return added_row(readers, constants, weight.dims[1])


def _placed(graph: onnx.GraphProto, joined: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Each Gemm where its Add was."""
    nodes = []
    for node in graph.node:
        gemm = joined.get(node.output[0]) if node.output else None
        if gemm is None:
            nodes.append(node)
        elif gemm.output[0] == node.output[0]:
            nodes.append(gemm)
    return nodes
