"""What a runtime must know to load a model, and whether a target does."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx.inliner import inline_local_functions

from app.domain.errors import Refused
from app.domain.report import Requires
from app.domain.target import release_number
from worker.engine.contrib import MICROSOFT, Need, needs_of
from worker.engine.load import parse
from worker.engine.passes.scopes import STANDARD, all_graphs, all_nodes, opset

# Release of ONNX Runtime, newest opset of the standard operators, newest IR. To 1.14 from the table "ONNX
# opset support" of its page docs/reference/compatibility.md; from 1.15 on tried with the last patch of each
# release, which loads a Relu of that opset and a model of that IR and refuses the next ones.
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
    ("1.15", 19, 9),
    ("1.17", 20, 9),
    ("1.18", 21, 10),
    ("1.21", 22, 10),
    ("1.23", 23, 11),
    ("1.24", 25, 13),
    ("1.25", 26, 13),
)
_ML = "ai.onnx.ml"
# Release of ONNX Runtime and newest opset of ai.onnx.ml, imported or used: the same page, and tried.
_ML_RELEASES = ((1, "0.1"), (2, "1.0"), (3, "1.12"), (4, "1.17"), (5, "1.18"))
_WIDE = frozenset({onnx.TensorProto.INT16, onnx.TensorProto.UINT16})
_ELEMENTS = {  # element types of constants: release, lowest IR
    onnx.TensorProto.INT4: ("1.19", 10),
    onnx.TensorProto.UINT4: ("1.19", 10),
    onnx.TensorProto.INT2: ("1.24", 13),
    onnx.TensorProto.UINT2: ("1.24", 13),
}


def requires(model: Path) -> Requires:
    """IR, operator sets, and the first release of ONNX Runtime that loads a model on a CPU."""
    proto = parse(model)
    opsets = {"" if o.domain in STANDARD else o.domain: int(o.version) for o in proto.opset_import}
    release, _ = _hardest(proto)
    return Requires(int(proto.ir_version), opsets, release)


def refuse_old_runtime(model: Path, runtime: str | None) -> None:
    """Hold a model against the release that it is meant for.

    Raises:
        Refused: `target_too_old`, naming what needs which release.
    """
    release, what = _hardest(parse(model))
    if runtime and release_number(release) > release_number(runtime):
        raise Refused(
            "target_too_old",
            f"The result has {what}, which needs ONNX Runtime {release}; the target has {runtime}. "
            f"Upgrade the target to {release}, or choose a recipe that does without.",
        )


def lowest_ir(proto: onnx.ModelProto) -> int:
    """The lowest IR version that may store the element types of a model's constants; 0 for any."""
    kinds = {t.data_type for graph in all_graphs(proto.graph) for t in graph.initializer}
    return max((ir for kind, (_, ir) in _ELEMENTS.items() if kind in kinds), default=0)


def _hardest(proto: onnx.ModelProto) -> Need:
    return max(_needs(proto), key=lambda need: release_number(need[0]))


def _needs(proto: onnx.ModelProto) -> Iterator[Need]:
    version, ir = opset(proto), int(proto.ir_version)
    yield _first(1, version), f"opset {version}"
    yield _first(2, ir), f"IR version {ir}"
    for entry in proto.opset_import:
        if entry.domain == _ML:
            yield _first_ml(int(entry.version)), f"opset {entry.version} of {_ML}"
    # functions are read where they are called, for a node may take an attribute from its call
    whole = inline_local_functions(proto) if proto.functions else proto
    tensors = [tensor for graph in all_graphs(whole.graph) for tensor in graph.initializer]
    for kind in _ELEMENTS.keys() & {tensor.data_type for tensor in tensors}:
        yield _ELEMENTS[kind][0], f"{onnx.TensorProto.DataType.Name(kind).lower()} constants"
    constants = {tensor.name: tensor.data_type for tensor in tensors}
    for node in all_nodes(whole.graph):
        if node.domain == MICROSOFT:
            yield from needs_of(node)
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            yield from _pair(node, constants)


def _pair(node: onnx.NodeProto, constants: Mapping[str, int]) -> Iterator[Need]:
    """What a QuantizeLinear or DequantizeLinear needs beyond that of 8 bits."""
    own = node.domain == MICROSOFT
    if own and constants.get(node.input[-1]) in _WIDE:
        yield "1.17", f"{MICROSOFT} {node.op_type} of 16 bits"
    if constants.get(node.input[0]) == onnx.TensorProto.INT32:
        yield "1.17" if own else "1.7", f"{node.op_type} of int32"
    if own and len(node.input) < 3:  # noqa: PLR2004 - the zero point comes third
        yield "1.17", f"{MICROSOFT} {node.op_type} without a zero point"


def _first(column: int, wanted: int) -> str:
    """The first release whose column reaches so far; what none reaches is left to the one in use."""
    return next((str(row[0]) for row in RELEASES if int(row[column]) >= wanted), str(ort.__version__))


def _first_ml(wanted: int) -> str:
    return next((release for version, release in _ML_RELEASES if version >= wanted), str(ort.__version__))
