"""int8 weights; activations are quantized as they come, at run time. Needs no data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx
from onnxruntime.quantization import QuantizationMode, QuantType
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata

from app.domain.recipe import DynamicInt8
from app.domain.target import RULES
from worker.engine.choices.resolve import resolve, types_for, unsupported
from worker.engine.choices.selection import matching, refuse_nothing, stays_float
from worker.engine.choices.setting import Setting
from worker.engine.contrib import MICROSOFT
from worker.engine.methods.conv_scales import float_weights, scale_channels
from worker.engine.methods.gemm import gemm_to_matmul, is_plain
from worker.engine.methods.own_weights import give_own_weights
from worker.engine.passes.scopes import (
    STANDARD,
    all_nodes,
    array,
    attribute,
    drop_unused,
    initializers,
    opset,
    subgraphs,
)
from worker.engine.passes.sorting import sort_nodes

Constants = Mapping[str, onnx.TensorProto]
_ON_REQUEST = frozenset({"Conv"})
_ONE_SCALE = frozenset({"Gather"})
_FIRST_OPSET = 11  # DynamicQuantizeLinear
_SMALLEST_TABLE = 4096  # values; below it a table is not worth a node
_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


def dynamic_int8(
    model: onnx.ModelProto, recipe: DynamicInt8, setting: Setting
) -> tuple[onnx.ModelProto, DynamicInt8, list[str]]:
    """Quantize the weights of products, LSTMs and embeddings, subgraphs included.

    Conv is quantized only when `include` names it: ConvInteger is slower than float Conv on a CPU.

    Args:
        model: the prepared model; it is changed.
        recipe: the choices; `auto` is resolved.
        setting: the target; data is not looked at.

    Returns:
        The quantized model, the resolved recipe, and the reasons.

    Raises:
        Refused: `nothing_to_quantize`, `selection_matches_nothing` or `unsupported_option`.
    """
    chosen, left = _choose(model, recipe)
    refuse_nothing(chosen, "dynamic_int8", left)
    kinds = {node.op_type for node in all_nodes(model.graph) if node.name in chosen}
    resolved, reasons = _resolve(recipe, setting.isa, kinds)
    give_own_weights(model, chosen)
    convolved = float_weights(model, chosen) if resolved.per_channel else {}
    gemm_to_matmul(model)
    if not any(entry.key == "onnx.infer" for entry in model.metadata_props):
        add_infer_metadata(model)
    quantizer = _quantizer(model, resolved, sorted(chosen))
    quantizer.quantize_model()
    scale_channels(quantizer.model.model, convolved, reduce_range=bool(resolved.reduce_range))
    sort_nodes(quantizer.model.model.graph)
    drop_unused(quantizer.model.model.graph)
    return quantizer.model.model, resolved, reasons + stays_float(left)


def _resolve(recipe: DynamicInt8, isa: str, kinds: set[str]) -> tuple[DynamicInt8, list[str]]:
    """The recipe without `auto`; `kinds` are the operators that will be quantized."""
    asked = {name: getattr(recipe, name) for name in ("weight", "reduce_range", "per_channel")}
    choices = types_for(isa) | {"per_channel": (True, "one scale per output channel is closer")}
    if "Conv" in kinds:
        choices["weight"] = ("uint8", "ConvInteger takes uint8 weights only")
    if kinds <= _ONE_SCALE:
        choices["per_channel"] = (False, "tables take one scale per tensor")
    weight = choices["weight"][0] if recipe.weight == "auto" else recipe.weight
    if weight == "uint8" and "LSTM" not in kinds:
        choices["reduce_range"] = (False, "uint8 weights are not summed in 16 bits")
    values, reasons = resolve(asked, choices)
    resolved = replace(recipe, **values)
    _refuse_pairs(resolved, kinds)
    return resolved, reasons + list(_remarks(resolved, isa, kinds))


def _refuse_pairs(recipe: DynamicInt8, kinds: set[str]) -> None:
    if "Conv" in kinds and recipe.weight == "int8":
        raise unsupported("weight", "int8", "ConvInteger takes uint8 weights only", "leave Conv or int8 out")
    if kinds <= _ONE_SCALE and recipe.per_channel:
        why = "tables take one scale per tensor"
        raise unsupported("per_channel", True, why, "leave it out")


def _remarks(recipe: DynamicInt8, isa: str, kinds: set[str]) -> Iterator[str]:
    if "Conv" in kinds:
        yield "Conv: ConvInteger is slower than float Conv on a CPU"
    if "Gather" in kinds:
        yield "Gather: tables become uint8 with one scale each: smaller, not faster"
    if "LSTM" in kinds and recipe.weight == "uint8":
        yield "LSTM: its weights become int8, the only type that they are quantized to"
    signed = recipe.weight == "int8" or "LSTM" in kinds
    if RULES[isa].reduce_range and signed and not recipe.reduce_range:
        yield f"reduce_range off: 16-bit sums can saturate on {isa}, so results may differ from other CPUs"


def _choose(model: onnx.ModelProto, recipe: DynamicInt8) -> tuple[set[str], dict[str, str]]:
    included, excluded = matching(model.graph, recipe.include), matching(model.graph, recipe.exclude)
    asked = bool(recipe.include.op_types or recipe.include.nodes)
    chosen: set[str] = set()
    left: dict[str, str] = {}
    for node, constants in _candidates(model.graph, {}):
        reason = _hindrance(node, constants, opset(model))
        if node.name in excluded:
            reason = "excluded"
        elif asked and node.name not in included:
            reason = "not included"
        elif node.op_type in _ON_REQUEST and not asked:
            reason = "dynamic Conv is slower than float Conv, so only `include` brings it in"
        if reason is None:
            chosen.add(node.name)
        else:
            left[node.name] = reason
    return chosen, left


def _candidates(graph: onnx.GraphProto, outer: Constants) -> Iterator[tuple[onnx.NodeProto, Constants]]:
    """Nodes that could be quantized, with the constants that they can see."""
    constants = {**outer, **initializers(graph)}
    for node in graph.node:
        if node.op_type in _RULES and node.domain in _DOMAINS.get(node.op_type, STANDARD):
            yield node, constants
        for below in subgraphs(node):
            yield from _candidates(below, constants)


def _hindrance(node: onnx.NodeProto, constants: Constants, version: int) -> str | None:
    if version < _FIRST_OPSET:
        return f"opset {version} has no DynamicQuantizeLinear"
    weights = [constants.get(node.input[index]) for index in _WEIGHTS[node.op_type]]
    known = [weight for weight in weights if weight is not None]
    if len(known) < len(weights):
        return "its weights are computed"
    if any(0 in weight.dims for weight in known):
        return "its weights hold no values"
    types = {weight.data_type for weight in known} - {onnx.TensorProto.FLOAT}
    if types:
        return f"it computes in {onnx.TensorProto.DataType.Name(types.pop()).lower()}"
    if not all(np.isfinite(array(weight)).all() for weight in known):
        return "its weights are not finite"
    return _RULES[node.op_type](node, known)


def _product(_: onnx.NodeProto, weights: Sequence[onnx.TensorProto]) -> str | None:
    return None if len(weights[0].dims) == 2 else "its weights are not a matrix"  # noqa: PLR2004


def _gemm(node: onnx.NodeProto, weights: Sequence[onnx.TensorProto]) -> str | None:
    return _product(node, weights) if is_plain(node) else "alpha, beta or transA is set"


def _lstm(node: onnx.NodeProto, _: Sequence[onnx.TensorProto]) -> str | None:
    return "its layout is batch first" if attribute(node, "layout", 0) else None


def _table(_: onnx.NodeProto, weights: Sequence[onnx.TensorProto]) -> str | None:
    small = len(weights[0].dims) != 2 or prod(weights[0].dims) < _SMALLEST_TABLE  # noqa: PLR2004
    return "its table is small" if small else None


def _any(_: onnx.NodeProto, __: Sequence[onnx.TensorProto]) -> str | None:
    return None


_RULES = {"MatMul": _product, "Gemm": _gemm, "LSTM": _lstm, "Gather": _table, "Attention": _any, "Conv": _any}
_WEIGHTS = {"MatMul": (1,), "Gemm": (1,), "LSTM": (1, 2), "Gather": (0,), "Attention": (1,), "Conv": (1,)}
_DOMAINS = {"Attention": {MICROSOFT}}  # the standard's Attention takes no weights


def _quantizer(model: onnx.ModelProto, recipe: DynamicInt8, nodes: list[str]) -> ONNXQuantizer:
    return ONNXQuantizer(
        model,
        recipe.per_channel,
        recipe.reduce_range,
        QuantizationMode.IntegerOps,
        False,
        _TYPES[recipe.weight],
        QuantType.QUInt8,
        None,
        nodes,
        [],
        sorted(_RULES),
        {"MatMulConstBOnly": True, "EnableSubgraph": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
    )
