"""ONNX Runtime's own quantizer, and what it is given."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata

from app.domain.recipe import Calibrated
from worker.engine.calibrate import Statistics, ranges
from worker.engine.calibrate.ranges import LEVELS
from worker.engine.choices.islands import ABSORBED, MOVERS, SUPPORTED, has_weights
from worker.engine.choices.overrides import TYPES, Entries, Exceptions, entries
from worker.engine.corrections.rounding import grid_of
from worker.engine.corrections.subject import Subject
from worker.engine.corrections.weights import put_rows, rows_of, weights
from worker.engine.examine import family
from worker.engine.methods.borders import draw_borders
from worker.engine.methods.concat import share_ranges
from worker.engine.methods.stem import pad_stems
from worker.engine.passes.scopes import initializers, names_used, opset, producers, subgraphs
from worker.engine.passes.sorting import sort_nodes

_FIRST_OPSET_WITH_PAD_BY_INPUT = 11


@dataclass(frozen=True)
class Plan:
    """What the quantizer is given beside the model and the recipe."""

    nodes: Sequence[str]
    statistics: Statistics
    exceptions: Exceptions
    entries: Entries
    reasons: tuple[str, ...]
    weighted: Sequence[onnx.NodeProto]
    keep_clips: bool  # whether a Relu or Clip must stay: ranges leave its bounds, or a subgraph reads it
    bounds: Mapping[str, str]  # names of the chosen Relu and Clip, by the node whose result they bound


def arrange(subject: Subject) -> Plan:
    """Shared ranges, padded stems, borders between types, and what is special about single tensors."""
    model, nodes, recipe, exceptions = subject.model, subject.nodes, subject.recipe, subject.exceptions
    statistics = share_ranges(model.graph, nodes, subject.statistics)
    padded: list[str] = []
    fast = subject.setting.isa == "x86-vnni" and (recipe.activation, recipe.weight) == ("uint8", "int8")
    if fast and opset(model) >= _FIRST_OPSET_WITH_PAD_BY_INPUT:
        before = {node.name: node.input[0] for node in model.graph.node if node.input}
        plain = [name for name in nodes if exceptions.kinds.get(name, "uint8") == "uint8"]
        statistics, padded = pad_stems(model, plain, statistics)
        after = {node.name: node.input[0] for node in model.graph.node if node.name in before}
        moved = {before[name]: read for name, read in after.items() if before[name] != read}
        exceptions = exceptions.renamed(moved)
    if exceptions.kinds:
        exceptions, statistics = draw_borders(model.graph, recipe, exceptions, statistics)
    made, spared = entries(model.graph, nodes, recipe, exceptions)
    _fit_ranges(made, recipe, statistics)
    special = {name for name, said in exceptions.activations.items() if "range" in said} | _read_below(model)
    clipped = any(n.op_type in ABSORBED and {n.input[0], n.output[0]} & special for n in model.graph.node)
    weighted, bounds = _copies(model.graph, nodes), _bounds(model.graph, nodes)
    return Plan(nodes, statistics, exceptions, made, (*padded, *spared), weighted, clipped, bounds)


def _bounds(graph: onnx.GraphProto, nodes: Sequence[str]) -> dict[str, str]:
    makers = producers(graph)
    chosen = (node for node in graph.node if node.op_type in ABSORBED and node.name in nodes)
    return {makers[node.input[0]].name: node.name for node in chosen if node.input[0] in makers}


def _read_below(model: onnx.ModelProto) -> set[str]:
    """What subgraphs read; their own tensors are among it."""
    holders = (node for node in model.graph.node if any(True for _ in subgraphs(node)))
    return {name for node in holders for name in names_used(node)}


def _fit_ranges(made: Entries, recipe: Calibrated, statistics: Statistics) -> None:
    """What has more values than other activations is not clipped as they are; `made` is changed."""
    kinds = {quant_type: kind for kind, quant_type in TYPES.items() if kind in LEVELS}
    for name, (entry, *_) in made.items():
        kind = kinds.get(entry.get("quant_type"), str(recipe.activation))
        other = LEVELS[kind] != LEVELS[recipe.activation]
        if other and name in statistics.tensors and "rmin" not in entry:
            one = replace(statistics, tensors={name: statistics.tensors[name]})
            found = ranges(one, recipe.ranges, kind, symmetric=bool(recipe.symmetric.activation))[name]
            entry["rmin"], entry["rmax"] = found.range_value


def run_quantizer(subject: Subject, plan: Plan) -> onnx.ModelProto:
    """The arranged model with pairs of QuantizeLinear and DequantizeLinear; the model is changed."""
    model, recipe = subject.model, subject.recipe
    _clip_weights(subject)
    own = {tensor: [dict(entry) for entry in rows] for tensor, rows in subject.overrides.items()}
    if not any(entry.key == "onnx.infer" for entry in model.metadata_props):
        add_infer_metadata(model)  # else it infers again, by way of a file
    quantizer = QDQQuantizer(
        model,
        recipe.per_channel,
        False,  # each weight has its own choice, and constants of sums keep all 8 bits
        TYPES[recipe.weight],
        TYPES[recipe.activation],
        ranges(
            plan.statistics,
            recipe.ranges,
            recipe.activation,
            symmetric=bool(recipe.symmetric.activation),
        ),
        list(plan.nodes),
        [],
        sorted(SUPPORTED),
        _options(model, recipe, plan, plan.entries | own),
    )
    with _quiet():
        quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    sort_nodes(quantized.graph)
    return quantized


def _clip_weights(subject: Subject) -> None:
    """Keep weights to the codes of the grids that corrections gave them."""
    for weight in weights(subject):
        if weight.name in subject.overrides:
            rows = rows_of(subject.model, weight)
            put_rows(subject.model, weight, grid_of(weight, rows, subject.overrides).clipped(rows))


def _options(model: onnx.ModelProto, recipe: Calibrated, plan: Plan, overrides: Entries) -> dict[str, Any]:
    options: dict[str, Any] = {
        "ActivationSymmetric": recipe.symmetric.activation,
        "WeightSymmetric": recipe.symmetric.weight,
        "UseQDQContribOps": recipe.qdq_domain == "com.microsoft",
        "QDQKeepRemovableActivations": plan.keep_clips,
        "QuantizeBias": recipe.quantize_bias,
        "TensorQuantOverrides": overrides,
    }
    if family(model.graph) == "transformer" and not _moves_by_hand(model.graph, plan):
        options["OpTypesToExcludeOutputQuantization"] = ["MatMul", "Gemm"]
    return options


def _moves_by_hand(graph: onnx.GraphProto, plan: Plan) -> bool:
    """Whether a mixed recipe asks for nodes that can only pass on integers."""
    asked = plan.exceptions.kinds.keys() & plan.exceptions.wanted.keys()
    return any(node.name in asked and node.op_type in MOVERS for node in graph.node)


def _copies(graph: onnx.GraphProto, nodes: Sequence[str]) -> list[onnx.NodeProto]:
    """The chosen nodes with weights as they are before the quantizer rewires them."""
    constants, copies = initializers(graph), list[onnx.NodeProto]()
    for node in graph.node:
        if node.name in nodes and has_weights(node, constants):
            copies.append(onnx.NodeProto())
            copies[-1].CopyFrom(node)
    return copies


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
