"""Which share of a model's multiplications the runtime does in integer kernels."""

import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

Feed = Mapping[str, Any]
# operator → its first factor and its second, as indices of inputs
_INTEGER = {
    "ConvInteger": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "QGemm": (0, 3),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
}
_FLOAT = dict.fromkeys(("Conv", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"), (0, 1))
_FACTORS = _INTEGER | _FLOAT


def integer_macs(model: Path, feed: Feed) -> tuple[int, int]:
    """Multiplications of the main graph in integer kernels, and all of them, for one run.

    The graph is the one that ONNX Runtime makes before it chooses layouts, which changes sizes; which nodes
    become integer kernels is settled by then.

    Args:
        model: any model that loads.
        feed: one run's inputs.
    """
    with tempfile.TemporaryDirectory(prefix="macs-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimized)
        ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimized)
    counted = [node for node in graph.graph.node if node.op_type in _FACTORS]
    shapes = _shapes(graph, counted, feed)
    every = [(node.op_type in _INTEGER, _macs(node, shapes)) for node in counted]
    return sum(macs for integer, macs in every if integer), sum(macs for _, macs in every)


def _shapes(model: onnx.ModelProto, nodes: list[onnx.NodeProto], feed: Feed) -> dict[str, tuple[int, ...]]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {name: np.shape(value) for name, value in feed.items()}
    known = {*shapes, *(value.name for value in model.graph.output)}
    factors = {node.input[index] for node in nodes for index in _FACTORS[node.op_type]}
    wanted = factors | {node.output[0] for node in nodes}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted - known))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}
    found = session.run(None, {name: value for name, value in feed.items() if name in taken})
    names = [value.name for value in session.get_outputs()]
    return shapes | {name: np.shape(value) for name, value in zip(names, found, strict=True)}


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    first, second = (node.input[index] for index in _FACTORS[node.op_type])
    made = prod(shapes[node.output[0]])
    if "Conv" in node.op_type:
        return made * prod(shapes[second][1:])
    transposed = next((a.i for a in node.attribute if a.name == "transA"), 0)
    return made * shapes[first][0 if transposed else -1]
