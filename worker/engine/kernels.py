"""What the runtime really executes, and what a runtime must be to load a model."""

import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort

from app.domain.report import Kernels, Requires
from worker.engine.load import parse
from worker.engine.passes.element_types import element_types
from worker.engine.passes.scopes import STANDARD, all_nodes
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
        "QLinearConvTranspose",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMatMul",
        "QLinearMul",
        "QLinearReduceMean",
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

# Release, opset of the standard operators, IR. From the table "ONNX opset support" of ONNX Runtime's page
# docs/reference/compatibility.md (to 1.20); the last row was tried with the release that is pinned here.
RELEASES = (
    ("0.1", 8, 3),
    ("0.3", 9, 3),
    ("0.4", 10, 5),
    ("1.0", 11, 6),
    ("1.3", 12, 7),
    ("1.6", 13, 7),
    ("1.8", 14, 7),
    ("1.9", 15, 8),
    ("1.11", 16, 8),
    ("1.12", 17, 8),
    ("1.14", 18, 8),
    ("1.15", 19, 8),
    ("1.16", 19, 9),
    ("1.17", 20, 9),
    ("1.18", 21, 10),
    ("1.31", 26, 13),
)


def kernels(model: Path) -> Kernels:
    """Count integer and float compute nodes in the graph that ONNX Runtime makes of a model on this CPU.

    A node is an integer one when its kernel multiplies or adds integers, or when it works on int8 tensors
    (MaxPool); it is a float one when it computes a float result. Moves of data count as neither.

    Raises:
        Refused: `model_not_loadable`.
    """
    with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(model, optimized_path=optimized)
        graph = parse(optimized).graph
    types = element_types(graph)  # the runtime saves no types, and knows operators that onnx does not
    kinds = [_kind(node, types) for node in all_nodes(graph)]
    return Kernels(integer=kinds.count("integer"), float=kinds.count("float"))


def _kind(node: onnx.NodeProto, types: dict[str, int]) -> str | None:
    if node.op_type in INTEGER:
        return "integer"
    if node.op_type in _MOVES or not node.output:
        return None
    result = types.get(node.output[0])
    if result in _BYTES:
        return "integer"
    return "float" if result in _FLOATS else None


def requires(model: Path) -> Requires:
    """What a runtime must know to load a model: IR, operator sets, and the first release that has both.

    Operator sets of other domains than the standard one are listed, but do not decide the release.
    """
    proto = parse(model)
    opsets = {"" if o.domain in STANDARD else o.domain: int(o.version) for o in proto.opset_import}
    return Requires(int(proto.ir_version), opsets, _release(opsets.get("", 0), int(proto.ir_version)))


def _release(version: int, ir: int) -> str:
    for release, newest_opset, newest_ir in RELEASES:
        if version <= newest_opset and ir <= newest_ir:
            return release
    return str(ort.__version__)
