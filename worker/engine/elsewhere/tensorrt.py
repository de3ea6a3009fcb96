"""TensorRT's rules for explicitly quantized models, held against a graph; TensorRT itself is not run.

1. The opset is 9 to 24, and every operator is one of ONNX that the parser has, or a function of the model's
   own; com.microsoft has none of these. [operators]
2. Quantized tensors are int8, int4, float8e4m3fn or float4e2m1. What is declared as uint8 would be read as
   int8. [parser]
3. int32 does not pass DequantizeLinear, so biases stay float. [bias]
4. Zero points are constants and 0; scales are constants above 0. [parser, Quantize]
5. Activations have one scale. int8 weights have one, or one for each output channel: axis 0 of a Conv's, the
   last of a MatMul's, and for ConvTranspose the input channels, axis 0. [schemes, ConvTranspose]
6. int4 is for weights, in blocks of 64 or 128 values along one of the last two axes. [schemes]

What a builder finds no kernel for on a given GPU is not among them.

operators: https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md, TensorRT 10.15.
parser: `QuantDequantLinearHelper` in https://github.com/onnx/onnx-tensorrt/blob/main/onnxOpImporters.cpp.
Quantize: https://docs.nvidia.com/deeplearning/tensorrt/operators/docs/Quantize.html.
schemes: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html.
bias: https://github.com/microsoft/onnxruntime/issues/14229.
ConvTranspose: https://github.com/NVIDIA/TensorRT/issues/2380.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from app.domain.report import Obstacle, TensorRT
from worker.engine.passes.scopes import STANDARD, all_graphs, all_nodes, array, attribute, opset

RULES = "TensorRT 10.15"
FIRST_OPSET, LAST_OPSET = 9, 24
SHOWN = 6
_T = onnx.TensorProto
_TYPES = frozenset({_T.INT8, _T.INT4, _T.FLOAT8E4M3FN, _T.FLOAT4E2M1})
_BLOCKS = frozenset({64, 128})
_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_CHANNELS = {"Conv": 0, "ConvTranspose": 0, "MatMul": -1}  # the axis of a weight that may have scales
_STATIC = "method: static_int8"
_MENDS = {
    "ConvInteger": _STATIC,
    "DynamicQuantizeLinear": _STATIC,
    "DynamicQuantizeLSTM": _STATIC,
    "DynamicQuantizeMatMul": _STATIC,
    "MatMulInteger": _STATIC,
    "GatherBlockQuantized": "method: float16",
    "MatMulBnb4": "method: float16",
    "MatMulNBits": "method: float16",
    "QGemm": "format: qdq",
    "QuantizeLinear": "qdq_domain: onnx",
    "DequantizeLinear": "qdq_domain: onnx",
}
_MISSING = frozenset(
    {
        *("AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
        *("CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "DFT", "Det"),
        *("DynamicQuantizeLinear", "ImageDecoder", "MatMulInteger", "MaxRoiPool", "MaxUnpool"),
        *("MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement"),
        *("OptionalHasElement", "QLinearConv", "QLinearMatMul", "RegexFullMatch", "SequenceAt"),
        *("SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength"),
        *("SequenceMap", "SoftmaxCrossEntropyLoss", "StringConcat", "StringNormalizer", "StringSplit"),
        *("TfIdfVectorizer", "Unique"),
    }
)
Found = tuple[str, str | None, str]  # a reason, what mends it, the node


@dataclass(frozen=True)
class Pair:
    """One QuantizeLinear or DequantizeLinear with its constants; None for what is computed."""

    node: onnx.NodeProto
    kind: int  # the element type of the quantized side
    weight: onnx.TensorProto | None
    scale: onnx.TensorProto | None
    zero_point: onnx.TensorProto | None
    readers: tuple[onnx.NodeProto, ...]

    @property
    def scales(self) -> tuple[int, ...]:
        """The sizes of the scales; none where there is one, or where they are computed."""
        several = self.scale is not None and array(self.scale).size > 1
        return tuple(self.scale.dims) if self.scale is not None and several else ()

    @property
    def rank(self) -> int:
        """How many axes a weight has; a single value counts as a row."""
        return max(len(self.weight.dims) if self.weight is not None else 0, 1)

    @property
    def what(self) -> str:
        """The recipe's word for what is quantized."""
        return "weight" if self.weight else "activation"


def tensorrt(model: onnx.ModelProto) -> TensorRT:
    """Hold a model against the rules; external data is loaded."""
    found = [*_opset(model), *_operators(model)]
    for pair in _pairs(model.graph):
        rules = (_int32,) if pair.kind == _T.INT32 else (_type, _zero_point, _scale, _scales)
        found += [(*broken, pair.node.name) for rule in rules for broken in rule(pair)]
    return TensorRT("no" if found else "yes", RULES, _grouped(found))


def _opset(model: onnx.ModelProto) -> Iterator[Found]:
    version = opset(model)
    if not FIRST_OPSET <= version <= LAST_OPSET:
        yield f"opset {version}, where {FIRST_OPSET} to {LAST_OPSET} is taken", None, ""


def _operators(model: onnx.ModelProto) -> Iterator[Found]:
    own = {(function.domain, function.name) for function in model.functions}
    for node in all_nodes(model.graph):
        if (node.domain, node.op_type) in own:
            continue
        if node.domain not in STANDARD:
            yield f"{node.domain} {node.op_type} is no operator of ONNX", _mend(node), node.name
        elif node.op_type in _MISSING:
            yield f"the parser has no {node.op_type}", _mend(node), node.name


def _mend(node: onnx.NodeProto) -> str | None:
    return "format: qdq" if node.op_type.startswith("QLinear") else _MENDS.get(node.op_type)


def _pairs(graph: onnx.GraphProto) -> Iterator[Pair]:
    constants = _constants(graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in all_nodes(graph):
        for name in node.input:
            readers.setdefault(name, []).append(node)
    kinds: dict[str, int] = {}
    for node in all_nodes(graph):
        if node.op_type in _PAIRS:
            data, scale, zero_point = (constants.get(name) for name in (*node.input, "")[:3])
            kinds[node.output[0]] = kind = _kind(node, data, zero_point, kinds)
            yield Pair(node, kind, data, scale, zero_point, tuple(readers.get(node.output[0], ())))


def _kind(
    node: onnx.NodeProto,
    data: onnx.TensorProto | None,
    zero_point: onnx.TensorProto | None,
    written: Mapping[str, int],
) -> int:
    """The element type of the quantized side; uint8 is what ONNX takes where nothing says it."""
    restores = node.op_type == "DequantizeLinear"
    typed = (data if restores else None) or zero_point
    if typed is not None:
        return int(typed.data_type)
    said = written.get(node.input[0]) if restores else attribute(node, "output_dtype", None)
    return int(said or _T.UINT8)


def _constants(graph: onnx.GraphProto) -> Mapping[str, onnx.TensorProto]:
    found = {t.name: t for scope in all_graphs(graph) for t in scope.initializer}
    written = ((n.output[0], _value(n)) for n in all_nodes(graph) if n.op_type == "Constant")
    return found | {name: value for name, value in written if value is not None}


def _value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor or the floats that a Constant holds; scales and zero points are nothing else."""
    tensor: onnx.TensorProto | None = attribute(node, "value", None)
    floats = attribute(node, "value_float", attribute(node, "value_floats", None))
    return tensor if floats is None else numpy_helper.from_array(np.asarray(floats, np.float32))


def _int32(_pair: Pair) -> Iterator[tuple[str, str | None]]:
    yield "int32 does not pass DequantizeLinear", "quantize_bias: false"


def _type(pair: Pair) -> Iterator[tuple[str, str | None]]:
    if pair.kind not in _TYPES:
        kind = _T.DataType.Name(pair.kind).lower()
        more = ", which is read as int8" if pair.kind == _T.UINT8 else ""
        yield f"{pair.what}s in {kind}{more}", f"{pair.what}: int8"


def _zero_point(pair: Pair) -> Iterator[tuple[str, str | None]]:
    if len(pair.node.input) > 2 and pair.zero_point is None:  # noqa: PLR2004
        yield "zero points that are computed", _STATIC
    elif pair.zero_point is not None and array(pair.zero_point).astype(float).any():
        yield f"{pair.what}s with a zero point other than 0", f"symmetric.{pair.what}: true"


def _scale(pair: Pair) -> Iterator[tuple[str, str | None]]:
    if pair.scale is None:
        yield "scales that are computed", _STATIC
    elif not (array(pair.scale).astype(float) > 0).all():
        yield "a scale that is not above 0", None


def _scales(pair: Pair) -> Iterator[tuple[str, str | None]]:
    if pair.kind in {_T.INT4, _T.FLOAT4E2M1}:
        yield from _blocks(pair)
    elif pair.scales and pair.weight is None:
        yield "activations with more than one scale", None
    elif len(pair.scales) > 1:
        yield "blocks of 8-bit weights", None
    elif pair.scales and (wrong := _wrong_axis(pair)):
        yield f"scales of {wrong} weights along another axis than its kernels take", "per_channel: false"


def _blocks(pair: Pair) -> Iterator[tuple[str, str | None]]:
    size, axis = attribute(pair.node, "block_size", 0), attribute(pair.node, "axis", 1)
    if pair.weight is None:
        yield "activations of 4 bits", "activation: int8"
    elif size not in _BLOCKS or axis % pair.rank < pair.rank - 2:
        yield "weights of 4 bits without blocks of 64 or 128", "weight: int8"


def _wrong_axis(pair: Pair) -> str | None:
    """The operator whose weights have scales along another axis than it takes."""
    given = attribute(pair.node, "axis", 1) % pair.rank
    for node in pair.readers:
        axis = -1 - attribute(node, "transB", 0) if node.op_type == "Gemm" else _CHANNELS.get(node.op_type)
        if axis is not None and node.input[1] == pair.node.output[0] and axis % pair.rank != given:
            return str(node.op_type)
    return None


def _grouped(found: list[Found]) -> tuple[Obstacle, ...]:
    """One obstacle for each reason, the most frequent first."""
    nodes: dict[tuple[str, str | None], list[str]] = {}
    for reason, mend, node in found:
        nodes.setdefault((reason, mend), []).append(node)
    ordered = sorted(nodes.items(), key=lambda item: -len(item[1]))
    return tuple(
        Obstacle(reason, len(those), tuple(name for name in those if name)[:SHOWN], mend)
        for (reason, mend), those in ordered
    )
