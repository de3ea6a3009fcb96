"""A constant that several nodes read in different roles becomes one constant per role."""

import onnx

from worker.engine.passes.scopes import attribute, initializers, tensor_names, unused_name

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_BIAS = 2
Role = tuple[str, ...]


def separate_shared_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Give each role of a shared weight or bias a copy of its own.

    ONNX Runtime's quantizer decides once per tensor: a weight that is quantized along the channels of a Conv
    is also handed to the Gemm that shares it, and a bias that becomes int32 to the Add that shares it.

    1. A role is the operator, the input's position, and for Gemm the transposition.
    2. The first role keeps the tensor; each other role of it gets a copy.
    3. Constants that are no weight and no bias anywhere are left alone, and so are those of one role.
    """
    graph = model.graph
    constants, names = initializers(graph), tensor_names(graph)
    copies: dict[tuple[str, Role], str] = {}
    first: dict[str, Role] = {}
    for node, index in _uses(graph, _weights(graph) & set(constants)):
        name, role = node.input[index], _role(node, index)
        if first.setdefault(name, role) == role:
            continue
        if (name, role) not in copies:
            copies[name, role] = unused_name(name, names)
            graph.initializer.add().CopyFrom(constants[name])
            graph.initializer[-1].name = copies[name, role]
        node.input[index] = copies[name, role]
    return model, list(copies.values())


def _weights(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node if node.op_type in _WEIGHTED for name in node.input}


def _uses(graph: onnx.GraphProto, names: set[str]) -> list[tuple[onnx.NodeProto, int]]:
    return [(node, i) for node in graph.node for i, name in enumerate(node.input) if name in names]


def _role(node: onnx.NodeProto, index: int) -> Role:
    if node.op_type not in _WEIGHTED:
        return ("other",)
    if index == _BIAS:
        return ("bias",)  # the quantizer copies biases that several nodes share
    return node.op_type, str(index), str(attribute(node, "transB", 0))
