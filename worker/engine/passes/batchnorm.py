"""BatchNormalization after a weighted operator is multiplied into its weights."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from worker.engine.passes.scopes import (
    array,
    as_initializer,
    attribute,
    consumers,
    initializers,
    producers,
    replace_nodes,
    tensor_names,
    unused_name,
)

Array = npt.NDArray[Any]
_CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1}


def fold_batchnorm(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    """Fold BatchNormalization into the Conv, ConvTranspose or Gemm before it.

    1. The operator's result is read by the BatchNormalization alone and is no output of the graph.
    2. Weights, bias and the four statistics are constants; the BatchNormalization does not train.
    3. ConvTranspose has one group; Gemm has alpha 1 and beta 1.
    4. The weights are read by this operator alone: others would see them change.
    """
    graph = model.graph
    before, readers, constants = producers(graph), consumers(graph), initializers(graph)
    outputs = {value.name for value in graph.output}
    removed: set[int] = set()
    for index, norm in enumerate(graph.node):
        operator = before.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if operator is None or norm.input[0] in outputs or len(readers[norm.input[0]]) > 1:
            continue
        if _fits(operator, norm, constants, readers):
            _fold(graph, operator, norm, constants)
            removed.add(index)
    if removed:
        replace_nodes(graph, (node for index, node in enumerate(graph.node) if index not in removed))
    return model, bool(removed)


def _fits(
    operator: onnx.NodeProto,
    norm: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    readers: dict[str, list[onnx.NodeProto]],
) -> bool:
    needed = [*operator.input[1:], *norm.input[1:]]
    plain = {
        "Conv": True,
        "ConvTranspose": attribute(operator, "group", 1) == 1,
        "Gemm": attribute(operator, "alpha", 1.0) == attribute(operator, "beta", 1.0) == 1.0,
    }
    return (
        plain.get(operator.op_type, False)
        and all(name in constants for name in needed)
        and len(readers[operator.input[1]]) == 1
        and not attribute(norm, "training_mode", 0)
        and not any(norm.output[1:])
    )


def _fold(
    graph: onnx.GraphProto,
    operator: onnx.NodeProto,
    norm: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
) -> None:
    scale, shift, mean, variance = (array(constants[n]).astype(np.float64) for n in norm.input[1:5])
    factor = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    weight = constants[operator.input[1]]
    values = array(weight)
    axis = _CHANNEL_AXIS[operator.op_type]
    if operator.op_type == "Gemm" and attribute(operator, "transB", 0):
        axis = 0
    along = [-1 if index == axis else 1 for index in range(values.ndim)]
    folded = (values * factor.reshape(along)).astype(values.dtype)
    bias = array(constants[operator.input[2]]).astype(np.float64) if len(operator.input) > 2 else 0.0  # noqa: PLR2004
    shifted = ((bias - mean) * factor + shift).astype(values.dtype)
    weight.CopyFrom(as_initializer(folded, weight.name))
    _set_bias(graph, operator, shifted)
    operator.output[0] = norm.output[0]


def _set_bias(graph: onnx.GraphProto, operator: onnx.NodeProto, bias: Array) -> None:
    """A new tensor, because several operators may share one bias."""
    name = unused_name(f"{operator.name or operator.output[0]}_bias", tensor_names(graph))
    graph.initializer.append(as_initializer(bias, name))
    del operator.input[2:]
    operator.input.append(name)
