"""int8 weights and activations, as pairs of QuantizeLinear and DequantizeLinear that the runtime fuses."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata

from app.domain.errors import Refused
from app.domain.recipe import StaticInt8
from worker.engine.calibrate import Statistics, ranges
from worker.engine.examine import family
from worker.engine.methods.concat import share_ranges
from worker.engine.methods.islands import SUPPORTED, Graph, Islands, islands
from worker.engine.methods.resolve import resolve, types_for
from worker.engine.methods.selection import matching, refuse_nothing, stays_float
from worker.engine.methods.setting import Setting
from worker.engine.methods.stem import pad_stems
from worker.engine.passes.opset import PER_CHANNEL
from worker.engine.passes.scopes import opset

_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
_FIRST_OPSET_WITH_QDQ = 10
_FIRST_OPSET_WITH_PAD_BY_INPUT = 11
_FIRST_OPSET_WITH_FLOAT16_QDQ = 19


def static_int8(
    model: onnx.ModelProto, recipe: StaticInt8, setting: Setting
) -> tuple[onnx.ModelProto, StaticInt8, list[str]]:
    """Quantize the nodes that the runtime can run in integer kernels.

    Args:
        model: the prepared model with types recorded; it is changed.
        recipe: the choices; `auto` is resolved.
        setting: the target, and the ranges of the model's activations.

    Returns:
        The quantized model, the resolved recipe, and the reasons.

    Raises:
        Refused: `no_calibration_data`, `nothing_to_quantize` or `selection_matches_nothing`.
    """
    statistics, isa = setting.statistics, setting.isa
    if statistics is None or not statistics.samples:
        raise Refused(
            "no_calibration_data", "A static recipe needs calibration data: add a dataset to the job."
        )
    resolved, reasons = _resolve(model, recipe, isa)
    found = _choose(model.graph, recipe, statistics)
    refuse_nothing(found.nodes, "static_int8", found.reasons)
    statistics = share_ranges(model.graph, found.nodes, statistics)
    if isa == "x86-vnni" and opset(model) >= _FIRST_OPSET_WITH_PAD_BY_INPUT:
        statistics, padded = pad_stems(model, found.nodes, statistics)
        reasons += padded
    quantizer = _quantizer(model, resolved, statistics, found.nodes)
    with _quiet():
        quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model, resolved, reasons + stays_float(found.reasons)


def _resolve(model: onnx.ModelProto, recipe: StaticInt8, isa: str) -> tuple[StaticInt8, list[str]]:
    version = opset(model)
    per_channel = version >= PER_CHANNEL
    why = (
        "one scale per output channel is closer"
        if per_channel
        else f"opset {version} has one scale per tensor"
    )
    asked = {name: getattr(recipe, name) for name in ("activation", "weight", "reduce_range", "per_channel")}
    values, reasons = resolve(asked, {**types_for(isa), "per_channel": (per_channel, why)})
    if values["per_channel"] and not per_channel:
        raise Refused("opset_too_old", f"{why}; ask for per_channel false, or export with opset 13 or later.")
    ranges_asked = recipe.ranges
    if ranges_asked.method == "auto":
        values["ranges"] = replace(ranges_asked, method="minmax")
    return replace(recipe, **values), reasons


def _choose(graph: onnx.GraphProto, recipe: StaticInt8, statistics: Statistics) -> Islands:
    ranged = {name for name, extent in statistics.tensors.items() if extent.finite}
    included, excluded = matching(graph, recipe.include), matching(graph, recipe.exclude)
    asked = bool(recipe.include.op_types or recipe.include.nodes)
    grow = asked or family(graph) != "transformer"
    return islands(Graph.of(graph, ranged), _wish(included if asked else None, excluded), grow=grow)


def _wish(included: set[str] | None, excluded: set[str]) -> Callable[[onnx.NodeProto], str | None]:
    """Relu and Clip follow the node before them: to include a Conv is to include its Relu."""

    def unwanted(node: onnx.NodeProto) -> str | None:
        if node.name in excluded:
            return "excluded"
        absorbed = node.op_type in {"Relu", "Clip"}
        return None if included is None or absorbed or node.name in included else "not included"

    return unwanted


def _quantizer(
    model: onnx.ModelProto, recipe: StaticInt8, statistics: Statistics, nodes: list[str]
) -> QDQQuantizer:
    if not any(entry.key == "onnx.infer" for entry in model.metadata_props):
        add_infer_metadata(model)  # else it infers again, by way of a file
    return QDQQuantizer(
        model,
        recipe.per_channel,
        recipe.reduce_range,
        _TYPES[recipe.weight],
        _TYPES[recipe.activation],
        ranges(statistics, recipe.ranges),
        nodes,
        [],
        sorted(SUPPORTED),
        _options(model),
    )


def _options(model: onnx.ModelProto) -> dict[str, Any]:
    options: dict[str, Any] = {}
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    if opset(model) < (_FIRST_OPSET_WITH_FLOAT16_QDQ if half else _FIRST_OPSET_WITH_QDQ):
        options["UseQDQContribOps"] = True
    if family(model.graph) == "transformer":
        options["OpTypesToExcludeOutputQuantization"] = ["MatMul", "Gemm"]
    return options


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer logs to the root logger; what it leaves out is reported here by name."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
