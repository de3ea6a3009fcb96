"""Integer weights and activations, as pairs of QuantizeLinear and DequantizeLinear that the runtime fuses."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata

from app.domain.errors import Refused
from app.domain.recipe import StaticInt8
from app.domain.target import RULES
from worker.engine import corrections
from worker.engine.calibrate import Statistics, ranges
from worker.engine.corrections.bias_correction import Pairs, bias_correction
from worker.engine.corrections.subject import Subject
from worker.engine.examine import family
from worker.engine.methods.concat import share_ranges
from worker.engine.methods.integer_io import integer_interface
from worker.engine.methods.islands import ABSORBED, SUPPORTED, Graph, Islands, has_weights, islands
from worker.engine.methods.overrides import TYPES, Entries, Exceptions, entries, find_exceptions, refuse_idle
from worker.engine.methods.qoperator import to_operators
from worker.engine.methods.resolve import unsupported
from worker.engine.methods.results import leave_results_float
from worker.engine.methods.saturation import can_saturate
from worker.engine.methods.selection import listed, matching, refuse_nothing, stays_float
from worker.engine.methods.setting import Setting
from worker.engine.methods.static_choices import first_opset, is_half, resolve_static
from worker.engine.methods.stem import pad_stems
from worker.engine.passes.inference import infer_shapes
from worker.engine.passes.naming import name_nodes
from worker.engine.passes.opset import CannotConvert, raise_opset
from worker.engine.passes.scopes import array, initializers, opset

_FIRST_OPSET_WITH_PAD_BY_INPUT = 11


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
        Refused: `no_calibration_data`, `nothing_to_quantize`, `selection_matches_nothing`,
            `unsupported_option` or `opset_too_old`.
    """
    statistics = _statistics(setting)
    resolved, reasons = resolve_static(model, recipe, setting.isa, has_samples=setting.samples is not None)
    model = _with_opset(model, resolved)
    exceptions = find_exceptions(model.graph, resolved.overrides)
    found = _choose(model.graph, resolved, statistics, exceptions)
    refuse_nothing(found.nodes, "static_int8", found.reasons)
    subject, corrected = _correct(
        Subject(model=model, nodes=found.nodes, recipe=resolved, setting=setting, statistics=statistics)
    )
    corrected += _correct_biases(subject, exceptions)
    plan = _arrange(subject, exceptions)
    quantized = _quantize(subject, plan)
    refuse_idle(plan.exceptions, found.nodes, quantized.graph)
    reasons += [*corrected, *plan.reasons, *_saturating(quantized, plan, resolved, setting.isa)]
    reasons += _finish(quantized, resolved, plan)
    return quantized, resolved, reasons + stays_float(found.reasons)


@dataclass(frozen=True)
class Plan:
    """What the quantizer is given beside the model and the recipe."""

    nodes: Sequence[str]
    statistics: Statistics
    exceptions: Exceptions
    entries: Entries
    reasons: tuple[str, ...]
    weighted: Sequence[onnx.NodeProto]
    keep_clips: bool  # whether a Relu or Clip must stay because ranges go beyond its bounds


def _statistics(setting: Setting) -> Statistics:
    if setting.statistics is None or not setting.statistics.samples:
        raise Refused(
            "no_calibration_data", "A static recipe needs calibration data: add a dataset to the job."
        )
    return setting.statistics


def _with_opset(model: onnx.ModelProto, recipe: StaticInt8) -> onnx.ModelProto:
    """The model, converted where the standard Q/DQ of its opset do not take the recipe's types."""
    needed = first_opset(recipe, half=is_half(model))
    if recipe.qdq_domain != "onnx" or opset(model) >= needed:
        return model
    try:
        converted, _ = infer_shapes(raise_opset(model, [needed]))
    except CannotConvert as error:
        why = f"these types need opset {needed}, and the model cannot be converted: {error}"
        raise unsupported("qdq_domain", "onnx", why, "ask for com.microsoft") from error
    name_nodes(converted)
    return converted


def _choose(
    graph: onnx.GraphProto, recipe: StaticInt8, statistics: Statistics, exceptions: Exceptions
) -> Islands:
    ranged = {name for name, extent in statistics.tensors.items() if extent.finite}
    included, excluded = matching(graph, recipe.include), matching(graph, recipe.exclude)
    asked = bool(recipe.include.op_types or recipe.include.nodes)
    grow = asked or family(graph) != "transformer"
    unwanted = _wish(included if asked else None, excluded, exceptions.left_float)
    return islands(Graph.of(graph, ranged), unwanted, grow=grow)


def _wish(
    included: set[str] | None, excluded: set[str], left: set[str]
) -> Callable[[onnx.NodeProto], str | None]:
    """Relu and Clip follow the node before them: to include a Conv is to include its Relu."""

    def unwanted(node: onnx.NodeProto) -> str | None:
        if node.name in excluded:
            return "excluded"
        if node.name in left:
            return "an override says so"
        absorbed = node.op_type in ABSORBED
        return None if included is None or absorbed or node.name in included else "not included"

    return unwanted


def _correct(subject: Subject) -> tuple[Subject, list[str]]:
    """Apply the recipe's corrections in the order of their table."""
    reasons = list[str]()
    for name, correct in corrections.CORRECTIONS.items():
        if name in subject.recipe.corrections:
            corrected = correct(subject)
            overrides = {**subject.overrides, **corrected.overrides}
            subject = replace(subject, statistics=corrected.statistics, overrides=overrides)
            reasons += corrected.reasons
    return subject, reasons


def _correct_biases(subject: Subject, exceptions: Exceptions) -> list[str]:
    """Quantize a copy, and take what it shifts out of the biases."""
    if "bias_correction" not in subject.recipe.corrections:
        return []
    trial = replace(subject, model=_copy(subject.model))
    plan = _arrange(trial, exceptions)
    pairs = Pairs(_copy(trial.model), _quantize(trial, plan))
    return [*bias_correction(subject.model, subject.nodes, pairs, subject.samples("bias_correction"))]


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _arrange(subject: Subject, exceptions: Exceptions) -> Plan:
    """Shared ranges, padded stems, and what is special about single tensors."""
    model, nodes, recipe = subject.model, subject.nodes, subject.recipe
    statistics = share_ranges(model.graph, nodes, subject.statistics)
    padded: list[str] = []
    fast = subject.setting.isa == "x86-vnni" and (recipe.activation, recipe.weight) == ("uint8", "int8")
    if fast and opset(model) >= _FIRST_OPSET_WITH_PAD_BY_INPUT:
        before = {node.name: node.input[0] for node in model.graph.node if node.input}
        statistics, padded = pad_stems(model, nodes, statistics)
        after = {node.name: node.input[0] for node in model.graph.node if node.name in before}
        moved = {before[name]: read for name, read in after.items() if before[name] != read}
        exceptions = exceptions.renamed(moved)
    made, spared = entries(model.graph, nodes, recipe, exceptions)
    ranged = {name for name, said in exceptions.activations.items() if "range" in said}
    clipped = any(n.op_type in ABSORBED and {n.input[0], n.output[0]} & ranged for n in model.graph.node)
    weighted = _copies(model.graph, nodes)
    return Plan(nodes, statistics, exceptions, made, (*padded, *spared), weighted, clipped)


def _quantize(subject: Subject, plan: Plan) -> onnx.ModelProto:
    model, recipe = subject.model, subject.recipe
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
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _options(model: onnx.ModelProto, recipe: StaticInt8, plan: Plan, overrides: Entries) -> dict[str, Any]:
    options: dict[str, Any] = {
        "ActivationSymmetric": recipe.symmetric.activation,
        "WeightSymmetric": recipe.symmetric.weight,
        "UseQDQContribOps": recipe.qdq_domain == "com.microsoft",
        "QDQKeepRemovableActivations": plan.keep_clips,
        "TensorQuantOverrides": overrides,
    }
    if family(model.graph) == "transformer":
        options["OpTypesToExcludeOutputQuantization"] = ["MatMul", "Gemm"]
    return options


def _copies(graph: onnx.GraphProto, nodes: Sequence[str]) -> list[onnx.NodeProto]:
    """The chosen nodes with weights as they are before the quantizer rewires them."""
    constants, copies = initializers(graph), list[onnx.NodeProto]()
    for node in graph.node:
        if node.name in nodes and has_weights(node, constants):
            copies.append(onnx.NodeProto())
            copies[-1].CopyFrom(node)
    return copies


def _saturating(quantized: onnx.ModelProto, plan: Plan, recipe: StaticInt8, isa: str) -> list[str]:
    """Where full 8-bit weights overflow 16-bit sums on this target, read from the weights as they are."""
    if not RULES[isa].reduce_range or recipe.activation not in {"uint8", "int8"}:
        return []
    constants = initializers(quantized.graph)
    pairs = [(node, constants.get(f"{node.input[1]}_quantized")) for node in plan.weighted]
    signed = [(node, w) for node, w in pairs if w is not None and w.data_type == onnx.TensorProto.INT8]
    found = [node.name for node, weights in signed if can_saturate(node, array(weights))]
    if not found:
        return []
    return [f"16-bit sums can saturate on {isa}, so results may differ from other CPUs: {listed(found)}"]


def _finish(quantized: onnx.ModelProto, recipe: StaticInt8, plan: Plan) -> list[str]:
    if recipe.format == "qoperator":
        to_operators(quantized)
    else:
        leave_results_float(quantized.graph, plan.nodes)
    return integer_interface(quantized) if recipe.quantize_io else []


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
