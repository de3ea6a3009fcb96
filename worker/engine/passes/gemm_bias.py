"""A Gemm's bias in the one form that integer kernels add."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from worker.engine.passes.scopes import (
    all_graphs,
    array,
    as_initializer,
    attribute,
    drop_attribute,
    initializers,
    is_standard,
    tensor_names,
    unused_name,
)

_BIAS = 2
Array = npt.NDArray[Any]


def make_bias_rows(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Make a Gemm's bias a row of its outputs, times its factor, in every scope.

    ONNX Runtime's QGemm has no beta, its quantizer stores a bias as if it had, and both ask for a value for
    each output where ONNX also takes one for all.

    1. Only a bias that is a constant of the node's own scope; each such node gets a constant of its own.
    2. A bias that differs between rows keeps its shape, and so does one of weights that are computed.
    3. A factor of zero gives zeros, also for values that are not finite.
    """
    changed: list[str] = []
    names = tensor_names(model.graph)
    for graph in all_graphs(model.graph):
        constants = initializers(graph)
        for node in graph.node:
            if not (is_standard(node, "Gemm") and len(node.input) > _BIAS and node.input[_BIAS] in constants):
                continue
            old = array(constants[node.input[_BIAS]])
            row = _as_row(_scaled(old, attribute(node, "beta", 1.0)), _outputs(node, constants))
            if row is not old:
                node.input[_BIAS] = unused_name(f"{node.input[_BIAS]}_row", names)
                graph.initializer.append(as_initializer(row, node.input[_BIAS]))
                drop_attribute(node, "beta")
                changed.append(node.name)
    return model, changed


def _scaled(bias: Array, beta: float) -> Array:
    if beta == 1.0:
        return bias
    return (bias * np.float32(beta)).astype(bias.dtype) if beta else np.zeros_like(bias)


def _outputs(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> int | None:
    weights = constants.get(node.input[1])
    return None if weights is None else weights.dims[0 if attribute(node, "transB", 0) else 1]


def _as_row(bias: Array, outputs: int | None) -> Array:
    same_for_rows = all(size == 1 for size in bias.shape[:-1])
    if outputs is None or bias.shape == (outputs,) or not same_for_rows:
        return bias
    return np.broadcast_to(bias.reshape(-1), (outputs,)).copy()
