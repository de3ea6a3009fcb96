"""What the runtime really executes."""

import tempfile
from pathlib import Path

import onnx

from app.domain.processor import isa
from app.domain.report import Kernels
from worker.engine.float_nodes import left_float
from worker.engine.hindrances import Ran, hindrances
from worker.engine.load import parse
from worker.engine.passes.element_types import element_types
from worker.engine.passes.scopes import all_nodes
from worker.engine.session import open_session

INTEGER = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "NhwcMaxPool",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearConv",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMatMul",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
    }
)
# They move, shape or convert data and compute nothing.
_MOVES = frozenset(
    {
        "Cast",
        "Constant",
        "ConstantOfShape",
        "DepthToSpace",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Expand",
        "Flatten",
        "Gather",
        "GatherBlockQuantized",
        "GatherElements",
        "GatherND",
        "Identity",
        "If",
        "Loop",
        "Pad",
        "QuantizeLinear",
        "ReorderInput",
        "ReorderOutput",
        "Reshape",
        "Scan",
        "Shape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
_FLOATS = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
    }
)
_BYTES = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})


def kernels(model: Path) -> Kernels:
    """Count integer and float compute nodes in the graph that ONNX Runtime makes of a model on this CPU.

    A node is an integer one when its kernel multiplies or adds integers, or when it works on int8 tensors
    (MaxPool); it is a float one when it computes a float result. Moves of data count as neither. Reasons and
    hindrances are read off that graph too, so they name what the runtime did and not what a recipe meant.

    Raises:
        Refused: `model_not_loadable`.
    """
    with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(model, optimized_path=optimized)
        graph = parse(optimized).graph
    types = element_types(graph)  # the runtime saves no types, and knows operators that onnx does not
    nodes = list(all_nodes(graph))
    kinds = [_kind(node, types) for node in nodes]
    integer = kinds.count("integer")
    floats = [node for node, kind in zip(nodes, kinds, strict=True) if kind == "float"]
    return Kernels(
        integer=integer,
        float=len(floats),
        left_float=left_float(floats, nodes),
        hindrances=tuple(hindrances(Ran(nodes, types, integer, _inner(graph), isa()))),
    )


def _inner(graph: onnx.GraphProto) -> frozenset[str]:
    """What nodes in subgraphs write."""
    top = {name for node in graph.node for name in node.output}
    return frozenset(name for node in all_nodes(graph) for name in node.output) - top


def _kind(node: onnx.NodeProto, types: dict[str, int]) -> str | None:
    if node.op_type in INTEGER:
        return "integer"
    if node.op_type in _MOVES or not node.output:
        return None
    result = types.get(node.output[0])
    if result in _BYTES:
        return "integer"
    return "float" if result in _FLOATS else None
