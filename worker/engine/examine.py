"""What is in a model, what of it can be quantized, and why it cannot be used if it cannot."""

import mmap
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

import onnx
import onnxruntime as ort

from app.domain.errors import Refused
from app.domain.report import Examination, TensorInfo
from worker.engine.bounded import bounded
from worker.engine.data.bind import DTYPES
from worker.engine.data.made_up import vocabularies
from worker.engine.load import check, check_external_data, model_bytes, parse
from worker.engine.passes.scopes import (
    STANDARD,
    all_graphs,
    all_nodes,
    attribute,
    opset,
)
from worker.engine.session import open_session

SUPPORTED_DOMAINS = STANDARD | {"ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
WEIGHTED = frozenset({"Conv", "MatMul", "Gemm"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "Scan", "Loop"})
_ATTENTION = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention", "SkipLayerNormalization"})
_SIGNATURES = {  # offset and bytes of what is often sent instead
    (0, b"PK\x03\x04"): "a zip archive, as PyTorch and Keras write",
    (0, b"\x89HDF"): "an HDF5 file, as Keras writes",
    (0, b"\x80\x02"): "a Python pickle",
    (4, b"TFL3"): "a TensorFlow Lite model",
    (4, b"ORTM"): "a model in ORT format",
    (0, b"GGUF"): "a GGUF file",
    (0, b"<"): "an HTML or XML page",
}
_MASK = -1e30
SHOWN = 200  # characters of who made the model
_MODEL_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_GRAPH_FIELD = 7
_VARINT_BITS = 64


def examine(model: Path) -> Examination:
    """Describe a model, or refuse it with the reason.

    Args:
        model: the main file; external data lies beside it.

    Raises:
        Refused: `empty_file`, `lfs_pointer`, `not_onnx`, `truncated_model`, `no_opset`,
            `unsupported_domain`, `external_data_missing`, `external_data_unsafe`, `invalid_model`,
            `model_not_loadable`, `unsupported_dtype` or `description_too_large`.
    """
    _refuse_other_files(model)
    proto = _parse(model)
    _refuse_no_opset(proto, model)
    _refuse_domains(proto)
    check_external_data(proto, model.parent)
    check(model)
    session = open_session(model)
    _refuse_dtypes(session)
    return bounded(_describe(proto, session, model))


def _refuse_other_files(path: Path) -> None:
    size = path.stat().st_size
    if not size:
        raise Refused("empty_file", f"{path.name} has 0 bytes. Upload the model itself.")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise Refused(
            "lfs_pointer",
            f"{path.name} is a git-LFS pointer of {size} bytes, not the model. "
            "Run `git lfs pull`, then upload.",
        )
    for (offset, signature), kind in _SIGNATURES.items():
        if head[offset:].startswith(signature):
            raise Refused("not_onnx", f"{path.name} is {kind}, not an ONNX model. Export it to ONNX first.")


def _parse(path: Path) -> onnx.ModelProto:
    try:
        return parse(path)
    except Refused as refusal:
        missing = _missing_bytes(path)
        if not missing:
            raise
        raise Refused(
            "truncated_model",
            f"{path.name} ends {missing} bytes too early ({path.stat().st_size} are there). Upload it again.",
        ) from refusal


def _missing_bytes(path: Path) -> int:
    """How far the graph of a cut-off file would reach beyond its end; 0 when this is no ONNX file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position, seen = 0, 0
        while position < len(data):
            tag, position = _varint(data, position)
            field, wire = tag >> 3, tag & 7
            if field not in _MODEL_FIELDS or wire not in {0, 2}:
                return 0
            value, position = _varint(data, position)
            seen += 1
            if wire == 2:  # noqa: PLR2004 - length-delimited, in protobuf's wire format
                position += value
        return position - len(data) if field == _GRAPH_FIELD and seen > 1 else 0


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while position < len(data) and shift < _VARINT_BITS:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a varint has no high bit
            break
        shift += 7
    return value, position


def _refuse_no_opset(model: onnx.ModelProto, path: Path) -> None:
    if not model.opset_import:
        raise Refused(
            "no_opset",
            f"{path.name} has IR version {model.ir_version} and imports no operator set, so its operators "
            "are not defined. Export it again with a current exporter (opset 13 or later).",
        )


def _refuse_domains(model: onnx.ModelProto) -> None:
    functions = {(function.domain, function.name) for function in model.functions}
    for node in all_nodes(model.graph):
        if node.domain not in SUPPORTED_DOMAINS and (node.domain, node.op_type) not in functions:
            raise Refused(
                "unsupported_domain",
                f"Node {_label(node)!r} is {node.op_type} of the domain {node.domain!r}, which "
                "ONNX Runtime knows only with a custom library. Export it as standard operators.",
            )


def _refuse_dtypes(session: ort.InferenceSession) -> None:
    """Inputs and outputs of types that NumPy lacks, such as bfloat16: nobody could feed or read them."""
    for value in (*session.get_inputs(), *session.get_outputs()):
        kind = value.type
        if kind.startswith("tensor(") and kind not in {*DTYPES, "tensor(string)"}:
            raise Refused(
                "unsupported_dtype",
                f"{value.name} is a {kind}, a type that NumPy does not have, so the model cannot be run on "
                "data. Export it with a Cast to float32 at this input or output.",
            )


def _label(node: onnx.NodeProto) -> str:
    return node.name or next(iter(node.output), node.op_type)


def _describe(model: onnx.ModelProto, session: ort.InferenceSession, path: Path) -> Examination:
    counts = Counter(node.op_type for node in all_nodes(model.graph))
    parameters = sum(_sizes(model.graph).values())
    rows = vocabularies(model.graph)
    return Examination(
        family=family(model.graph),
        inputs=tuple(_tensor(value) for value in session.get_inputs()),
        outputs=tuple(_tensor(value) for value in session.get_outputs()),
        ir=model.ir_version,
        opsets={entry.domain: int(entry.version) for entry in model.opset_import},
        producer=f"{model.producer_name} {model.producer_version}".strip()[:SHOWN],
        nodes=sum(counts.values()),
        op_types=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        parameters=parameters,
        bytes=model_bytes(path),
        quantizable=_quantizable(model.graph) / parameters if parameters else 0.0,
        warnings=tuple(_warnings(model, counts)),
        vocabularies={i.name: rows[i.name] for i in session.get_inputs() if i.name in rows},
    )


_NUMPY = {"float": "float32", "double": "float64"}


def _tensor(value: ort.NodeArg) -> TensorInfo:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(dim if isinstance(dim, int | str) else None for dim in value.shape or ())
    return TensorInfo(value.name, _NUMPY.get(kind, kind), shape)


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and the tensors of Constant nodes, which then carry the node's output name."""
    yield from graph.initializer
    for node in graph.node:
        value = attribute(node, "value", None) if node.op_type == "Constant" else None
        if isinstance(value, onnx.TensorProto):
            value.name = node.output[0]
            yield value


def _sizes(graph: onnx.GraphProto) -> Counter[str]:
    """Number of values of each float constant, in every scope."""
    sizes: Counter[str] = Counter()
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    for scope in all_graphs(graph):
        for tensor in _constants(scope):
            if tensor.data_type in floats | {onnx.TensorProto.BFLOAT16}:
                sizes[tensor.name] += prod(tensor.dims)
    return sizes


def _quantizable(graph: onnx.GraphProto) -> int:
    sizes = _sizes(graph)
    weights = {name for node in all_nodes(graph) if node.op_type in WEIGHTED for name in node.input[:2]}
    return sum(sizes[name] for name in weights)


def family(graph: onnx.GraphProto) -> str:
    """What kind of network this is: recurrent, transformer, convolutional, dense or other."""
    counts = Counter(node.op_type for node in all_nodes(graph))
    if counts.keys() & _RECURRENT:
        return "recurrent"
    if counts.keys() & _ATTENTION or (counts["Softmax"] and _products_of_activations(graph)):
        return "transformer"
    if counts["Conv"] or counts["ConvTranspose"]:
        return "convolutional"
    return "dense" if counts["MatMul"] or counts["Gemm"] else "other"


def _products_of_activations(graph: onnx.GraphProto) -> bool:
    """Attention multiplies two things that were computed: queries by keys, then weights by values."""
    computed = {output for node in all_nodes(graph) if node.op_type != "Constant" for output in node.output}
    products = sum(n.op_type == "MatMul" and set(n.input) <= computed for n in all_nodes(graph))
    return products > 1


def _warnings(model: onnx.ModelProto, counts: Counter[str]) -> Iterator[str]:
    if counts["QuantizeLinear"] or counts["DequantizeLinear"]:
        yield "The model is quantized already: its QuantizeLinear and DequantizeLinear nodes are left alone."
    if 0 < opset(model) < 13:  # noqa: PLR2004 - the first opset with per-channel quantization
        yield f"Opset {opset(model)} has no per-channel quantization: it will be converted where possible."
    if any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer):
        yield "Weights are float16: on a CPU they are computed in float32."
    if _quantizable(model.graph) and not _has_weights(model.graph):
        yield "The weights lie in subgraphs, which static recipes do not reach."
    masks = [t.name for t in _constants(model.graph) if _is_mask(t)]
    if masks:
        yield f"Mask values below {_MASK:g} in {masks[0]!r} would stretch a quantized range."


def _has_weights(graph: onnx.GraphProto) -> bool:
    constants = {tensor.name for tensor in _constants(graph)}
    return any(node.op_type in WEIGHTED and constants & set(node.input[:2]) for node in graph.node)


def _is_mask(tensor: onnx.TensorProto) -> bool:
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    if external or tensor.data_type != onnx.TensorProto.FLOAT or not prod(tensor.dims):
        return False
    return bool(onnx.numpy_helper.to_array(tensor).min() < _MASK)
