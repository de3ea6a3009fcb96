"""Weights of their own for nodes that ONNX Runtime's dynamic quantizer cannot quantize otherwise."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import onnx

from worker.engine.passes.scopes import (
    all_nodes,
    initializers,
    subgraphs,
    tensor_names,
    unused_name,
)

# They are looked for in the node's own graph alone, and those of an LSTM are reshaped in place.
_WEIGHTS = {"LSTM": (1, 2), "Conv": (1,), "Gemm": (1,)}
Constants = Mapping[str, onnx.TensorProto]


def give_own_weights(model: onnx.ModelProto, nodes: Collection[str]) -> None:
    """Copy weights that lie in an outer graph, or that an LSTM shares, for the nodes that need their own.

    Args:
        model: it is changed.
        nodes: names of the nodes that will be quantized.
    """
    names = tensor_names(model.graph)
    readers = Counter(name for node in all_nodes(model.graph) for name in node.input)
    for graph, constants in _scopes(model.graph, {}):
        mine = initializers(graph)
        for node in graph.node:
            for index in _WEIGHTS.get(node.op_type, ()) if node.name in nodes else ():
                name = node.input[index]
                if name in mine and (node.op_type != "LSTM" or readers[name] == 1):
                    continue
                copy = unused_name(name, names)
                graph.initializer.add().CopyFrom(constants[name])
                graph.initializer[-1].name = node.input[index] = copy
                readers[name] -= 1


def _scopes(graph: onnx.GraphProto, outer: Constants) -> Iterator[tuple[onnx.GraphProto, Constants]]:
    constants = {**outer, **initializers(graph)}
    yield graph, constants
    for node in graph.node:
        for below in subgraphs(node):
            yield from _scopes(below, constants)
