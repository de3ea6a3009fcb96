"""Small models made in code; each function returns one kind."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
FLOAT = TensorProto.FLOAT


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    constants: Mapping[str, Array],
    *,
    opset: int = 17,
    ir: int = 8,
    kind: int = FLOAT,
) -> onnx.ModelProto:
    """A model of one graph; before IR 4 its constants are listed as inputs too."""
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    fed = [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()]
    if ir < 4:
        fed += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    made = [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(list(nodes), "graph", fed, made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def weights(*shape: int, seed: int = 0) -> Array:
    """Normal values of a size that keeps activations near 1."""
    scale = 1.0 / np.sqrt(np.prod(shape[1:]) or 1)
    values: Array = np.random.default_rng(seed).normal(size=shape) * scale
    return values.astype(np.float32)


def feeds(count: int = 8, name: str = "x", shape: Sequence[int] = (1, 3, 16, 16)) -> list[dict[str, Array]]:
    """Normal inputs, always the same."""
    rng = np.random.default_rng(7)
    return [{name: rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def convolution(opset: int = 17, ir: int = 8, channels: int = 16) -> onnx.ModelProto:
    """Conv, Relu, Conv on images with a dynamic batch."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2"], ["y"], "second"),
    ]
    constants = {
        "w1": weights(channels, 3, 3, 3),
        "b1": weights(channels, 1, seed=1)[:, 0],
        "w2": weights(8, channels, 1, 1, seed=2),
    }
    images: dict[str, Sequence[int | str]] = {"x": ["batch", 3, 16, 16]}
    return build(nodes, images, {"y": ["batch", 8, 16, 16]}, constants, opset=opset, ir=ir)


def residual() -> onnx.ModelProto:
    """Two convolutions whose results are added, then one more: the block that int8 activations break."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "stem_relu"),
        helper.make_node("Conv", ["r", "w2"], ["c"], "branch", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["r", "c"], ["s"], "add"),
        helper.make_node("Relu", ["s"], ["t"], "add_relu"),
        helper.make_node("Conv", ["t", "w3"], ["y"], "head"),
    ]
    constants = {
        "w1": weights(16, 3, 3, 3),
        "w2": weights(16, 16, 3, 3, seed=1),
        "w3": weights(4, 16, 1, 1, seed=2),
    }
    return build(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 4, 16, 16]}, constants)


def silu() -> onnx.ModelProto:
    """Conv, SiLU, Concat, pooling, Conv: what modern detectors are made of."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["a"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["a", "s"], ["m"], "silu"),
        helper.make_node("Conv", ["m", "w2"], ["c"], "side"),
        helper.make_node("Concat", ["m", "c"], ["j"], "join", axis=1),
        helper.make_node("MaxPool", ["j"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w3"], ["y"], "head"),
    ]
    constants = {
        "w1": weights(16, 3, 3, 3),
        "w2": weights(16, 16, 1, 1, seed=1),
        "w3": weights(8, 32, 1, 1, seed=2),
    }
    return build(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 8, 8, 8]}, constants)


def dense(*, shared: bool = False, transposed: bool = True) -> onnx.ModelProto:
    """Gemm, Relu, Gemm; with `shared`, one weight for both."""
    second = "w1" if shared else "w2"
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b"], ["a"], "first", transB=int(transposed)),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", second, "b"], ["y"], "second", transB=int(transposed)),
    ]
    constants = {"w1": weights(32, 32), "b": weights(32, 1, seed=1)[:, 0]}
    if not shared:
        constants["w2"] = weights(32, 32, seed=2)
    return build(nodes, {"x": ["batch", 32]}, {"y": ["batch", 32]}, constants)


def attention() -> onnx.ModelProto:
    """One head of attention with a residual Add: queries, keys and values from weights."""
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"], "query"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], "key"),
        helper.make_node("MatMul", ["x", "wv"], ["v"], "value"),
        helper.make_node("Transpose", ["k"], ["kt"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], "scores"),
        helper.make_node("Softmax", ["scores"], ["p"], "softmax", axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["mixed"], "mix"),
        helper.make_node("Add", ["x", "mixed"], ["y"], "add"),
    ]
    constants = {name: weights(32, 32, seed=seed) for seed, name in enumerate(("wq", "wk", "wv"))}
    return build(nodes, {"x": ["batch", 8, 32]}, {"y": ["batch", 8, 32]}, constants)


def normalized() -> onnx.ModelProto:
    """Conv and BatchNormalization, as a training framework leaves them."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["y"], "norm"),
    ]
    rng = np.random.default_rng(3)
    statistics = {n: rng.uniform(0.5, 2, 8).astype(np.float32) for n in ("scale", "shift", "mean", "var")}
    constants = {"w": weights(8, 3, 1, 1), **statistics}
    return build(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 8, 16, 16]}, constants)


def outliers() -> onnx.ModelProto:
    """A LayerNormalization with a few large gains, and two products that read it."""
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["n"], "norm", axis=-1),
        helper.make_node("MatMul", ["n", "wa"], ["a"], "query"),
        helper.make_node("MatMul", ["n", "wb"], ["b"], "key"),
        helper.make_node("Add", ["a", "b"], ["y"], "add"),
    ]
    constants = {
        "gain": np.where(np.arange(64) % 16, 1, 40).astype(np.float32),
        "shift": np.zeros(64, np.float32),
        "wa": weights(64, 64),
        "wb": weights(64, 64, seed=1),
    }
    return build(nodes, {"x": [1, 12, 64]}, {"y": [1, 12, 64]}, constants)


def branches() -> onnx.ModelProto:
    """If with a product in each branch; the weights lie in the branches."""
    inner = []
    for seed, name in enumerate(("then", "else")):
        weight = numpy_helper.from_array(weights(16, 16, seed=seed))
        nodes = [
            helper.make_node("Constant", [], [f"{name}_w"], f"{name}_constant", value=weight),
            helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_y"], f"{name}_product"),
        ]
        output = helper.make_tensor_value_info(f"{name}_y", FLOAT, ["batch", 16])
        inner.append(helper.make_graph(nodes, name, [], [output]))
    node = helper.make_node("If", ["yes"], ["y"], "if", then_branch=inner[0], else_branch=inner[1])
    model = build([node], {"x": ["batch", 16]}, {"y": ["batch", 16]}, {})
    model.graph.input.append(helper.make_tensor_value_info("yes", TensorProto.BOOL, []))
    return model


def branch_feeds(count: int = 8) -> list[dict[str, Array]]:
    """Inputs of `branches`, for one branch and the other in turn."""
    rows = feeds(count, shape=(2, 16))
    return [{**feed, "yes": np.array(index % 2 == 0)} for index, feed in enumerate(rows)]


def half() -> onnx.ModelProto:
    """A convolution in float16."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("Relu", ["a"], ["y"], "relu"),
    ]
    constants = {"w": weights(8, 3, 1, 1).astype(np.float16)}
    images: dict[str, Sequence[int | str]] = {"x": [1, 3, 16, 16]}
    return build(nodes, images, {"y": [1, 8, 16, 16]}, constants, kind=TensorProto.FLOAT16)


def foreign() -> onnx.ModelProto:
    """One node of a domain that nobody knows."""
    nodes = [helper.make_node("Noise", ["x"], ["y"], "noise", domain="acme.ops")]
    model = build(nodes, {"x": [1, 4]}, {"y": [1, 4]}, {})
    model.opset_import.append(helper.make_opsetid("acme.ops", 1))
    return model
