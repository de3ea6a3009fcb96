"""Integer weights and activations, as pairs of QuantizeLinear and DequantizeLinear that the runtime fuses."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx

from app.domain.errors import Refused
from app.domain.recipe import Calibrated, Correction, Mixed, StaticInt8
from app.domain.target import RULES
from worker.engine import corrections
from worker.engine.calibrate import Statistics
from worker.engine.choices.islands import ABSORBED, Islands, RangedGraph, islands
from worker.engine.choices.overrides import EIGHT_BITS, Exceptions, find_exceptions, refuse_idle
from worker.engine.choices.resolve import unsupported
from worker.engine.choices.saturation import can_saturate
from worker.engine.choices.selection import listed, matching, refuse_nothing, stays_float
from worker.engine.choices.setting import Setting
from worker.engine.corrections.adaround import adaround
from worker.engine.corrections.bias_correction import Pairs, bias_correction
from worker.engine.corrections.subject import Subject
from worker.engine.examine import family
from worker.engine.load import copy_of
from worker.engine.methods.borders import close_borders
from worker.engine.methods.by_hand import (
    kinds_of,
    refuse_unkept,
    stays_apart,
    wish_by_hand,
)
from worker.engine.methods.gemm import matmul_to_gemm
from worker.engine.methods.integer_io import integer_interface
from worker.engine.methods.qoperator import to_operators
from worker.engine.methods.quantizer import arrange, run_quantizer
from worker.engine.methods.results import leave_results_float, read_floats
from worker.engine.methods.static_choices import first_opset, resolve_static
from worker.engine.methods.trial import Built, Making, settle
from worker.engine.passes.inference import infer_shapes
from worker.engine.passes.naming import name_nodes
from worker.engine.passes.opset import CannotConvert, raise_opset
from worker.engine.passes.pairs import restored
from worker.engine.passes.scopes import array, initializers, opset


def static_int8(
    model: onnx.ModelProto, recipe: StaticInt8, setting: Setting
) -> tuple[onnx.ModelProto, Calibrated, list[str]]:
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
    built, resolved, reasons = make(model, recipe, setting)
    reasons += finish(built, resolved)
    return built.quantized, resolved, reasons + stays_float(built.left_float)


def make(model: onnx.ModelProto, recipe: Calibrated, setting: Setting) -> tuple[Built, Calibrated, list[str]]:
    """Quantize by a recipe: the model with its pairs, the resolved recipe, and the reasons so far.

    Raises:
        Refused: as `static_int8` does.
    """
    resolved, reasons = resolve_static(model, recipe, setting.isa, has_samples=setting.samples is not None)
    model = _with_opset(model, resolved)
    if setting.samples and resolved.ranges.method == "auto":
        further: tuple[Correction, ...] = ("smoothquant",) if recipe.corrections == "auto" else ()
        resolved, tried = settle(model, resolved, setting, Making(_try, corrected_float, further))
        reasons += tried
    built = _build(model, resolved, setting)
    refuse_idle(built.plan.exceptions, built.plan.nodes, built.quantized.graph)
    reasons += [*built.corrected, *built.plan.reasons, *_saturating(built, resolved, setting.isa)]
    return built, resolved, reasons


def is_rescaled(recipe: Calibrated) -> bool:
    """Whether tensors of the result are not of the size that they have in the float model."""
    return bool(corrections.MOVING & set(recipe.corrections))


def corrected_float(model: onnx.ModelProto, recipe: Calibrated, setting: Setting) -> onnx.ModelProto:
    """The float model that a static recipe rounds: the same function, its sizes moved by the corrections.

    Args:
        model: the prepared model; it is changed.
        recipe: resolved.
        setting: as the recipe was resolved with it.
    """
    subject, _ = _chosen(_with_opset(model, recipe), recipe, setting)
    moving = replace(recipe, corrections=tuple(c for c in recipe.corrections if c in corrections.MOVING))
    return _correct(replace(subject, recipe=moving))[0].model


def _chosen(model: onnx.ModelProto, recipe: Calibrated, setting: Setting) -> tuple[Subject, Islands]:
    """What is to be corrected and quantized, and why nothing else."""
    statistics = _statistics(setting)
    found, exceptions = _choose(model.graph, recipe, statistics)
    subject = Subject(
        model=model,
        nodes=found.nodes,
        recipe=recipe,
        setting=setting,
        statistics=statistics,
        exceptions=exceptions,
    )
    return subject, found


def _build(model: onnx.ModelProto, recipe: Calibrated, setting: Setting) -> Built:
    """Choose the nodes, correct the model, and run the quantizer; the model is changed."""
    subject, found = _chosen(model, recipe, setting)
    refuse_nothing(found.nodes, recipe.method, found.reasons)
    subject, corrected = _correct(subject)
    subject, learned = _learn_codes(subject)
    corrected += [*learned, *_correct_biases(subject)]
    plan, given = arrange(subject), restored(subject.model.graph)
    quantized = run_quantizer(subject, plan)
    if recipe.format == "qdq":
        leave_results_float(quantized.graph, plan.nodes, plan.bounds, given)
    read_floats(quantized.graph, plan.nodes, given)
    close_borders(quantized.graph)
    return Built(quantized, plan, tuple(corrected), found.reasons)


def _try(model: onnx.ModelProto, recipe: Calibrated, setting: Setting) -> Built:
    """As `_build`, but with closed-form rounding for learned, which would take minutes each time."""
    if recipe.corrections != "auto" and "adaround" in recipe.corrections:
        others = tuple(name for name in recipe.corrections if name != "adaround")
        recipe = replace(recipe, corrections=("rounding", *others))
    return _build(model, recipe, setting)


def _statistics(setting: Setting) -> Statistics:
    if setting.statistics is None or not setting.statistics.samples:
        raise Refused(
            "no_calibration_data", "A static recipe needs calibration data: add a dataset to the job."
        )
    return setting.statistics


def _with_opset(model: onnx.ModelProto, recipe: Calibrated) -> onnx.ModelProto:
    """The model, converted where the standard Q/DQ of its opset do not take the recipe's types."""
    needed = first_opset(recipe)
    if recipe.qdq_domain != "onnx" or opset(model) >= needed:
        return model
    try:
        converted, _ = infer_shapes(raise_opset(model, [needed]))
    except CannotConvert as error:
        why = f"these types need opset {needed}, and the model cannot be converted: {error}"
        raise unsupported("qdq_domain", "onnx", why, "ask for com.microsoft") from error
    name_nodes(converted)
    return converted


def _choose(graph: onnx.GraphProto, recipe: Calibrated, statistics: Statistics) -> tuple[Islands, Exceptions]:
    """The nodes to quantize, and what is special about some of them."""
    exceptions = find_exceptions(graph, recipe)
    ranged = {name for name, extent in statistics.tensors.items() if extent.finite}
    if isinstance(recipe, Mixed):
        return _choose_by_hand(graph, recipe, ranged, exceptions)
    included, excluded = matching(graph, recipe.include), matching(graph, recipe.exclude)
    asked = bool(recipe.include.op_types or recipe.include.nodes)
    grow = asked or family(graph) != "transformer"
    unwanted = _wish(included if asked else None, excluded, exceptions.left_float)
    matmul_to_gemm(graph, _wish(None, excluded, exceptions.left_float))
    return islands(RangedGraph.of(graph, ranged), unwanted, grow=grow), exceptions


def _choose_by_hand(
    graph: onnx.GraphProto, recipe: Mixed, ranged: set[str], exceptions: Exceptions
) -> tuple[Islands, Exceptions]:
    unwanted = wish_by_hand(graph, recipe, exceptions)
    matmul_to_gemm(graph, stays_apart(graph, unwanted, recipe, exceptions))
    found = islands(RangedGraph.of(graph, ranged), unwanted, grow=True, asked=exceptions.wanted.keys())
    refuse_unkept(graph, found, exceptions)
    return found, replace(exceptions, kinds=kinds_of(graph, found, recipe, exceptions))


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


def _learn_codes(subject: Subject) -> tuple[Subject, Sequence[str]]:
    if "adaround" not in subject.recipe.corrections:
        return subject, ()
    corrected = adaround(subject, lambda begun: _pairs(begun).quantized)
    return replace(subject, overrides={**subject.overrides, **corrected.overrides}), corrected.reasons


def _pairs(subject: Subject) -> Pairs:
    """What the quantizer would make of a subject, which stays as it is."""
    trial = replace(subject, model=copy_of(subject.model))
    plan = arrange(trial)
    return Pairs(copy_of(trial.model), run_quantizer(trial, plan))


def _correct_biases(subject: Subject) -> list[str]:
    """Take what quantizing shifts out of the biases."""
    if "bias_correction" not in subject.recipe.corrections:
        return []
    pairs = _pairs(subject)
    return [*bias_correction(subject.model, subject.nodes, pairs, subject.samples("bias_correction"))]


def _saturating(built: Built, recipe: Calibrated, isa: str) -> list[str]:
    """Where full 8-bit weights overflow 16-bit sums on this target, read from the weights as they are."""
    if not RULES[isa].reduce_range:
        return []
    constants, exceptions = initializers(built.quantized.graph), built.plan.exceptions
    summed = [node for node in built.plan.weighted if exceptions.activation_of(node, recipe) in EIGHT_BITS]
    pairs = [(node, constants.get(f"{node.input[1]}_quantized")) for node in summed]
    signed = [(node, w) for node, w in pairs if w is not None and w.data_type == onnx.TensorProto.INT8]
    found = [node.name for node, weights in signed if can_saturate(node, array(weights))]
    if not found:
        return []
    return [f"16-bit sums can saturate on {isa}, so results may differ from other CPUs: {listed(found)}"]


def finish(built: Built, recipe: Calibrated) -> list[str]:
    if recipe.format == "qoperator":
        to_operators(built.quantized, built.plan.nodes)
    return integer_interface(built.quantized) if recipe.quantize_io else []
