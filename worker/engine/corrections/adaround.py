"""Learned rounding: codes with which each layer hands on what it does in float (AdaRound)."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from worker.engine.choices.selection import listed
from worker.engine.corrections.activations import activations
from worker.engine.corrections.held_out import HELD_OUT, is_held_out
from worker.engine.corrections.reconstruction import BATCH, Evidence, Layer, collect, errors, slope
from worker.engine.corrections.relaxation import Between, Floats, settle_shares
from worker.engine.corrections.rounding import grid_of, rounding
from worker.engine.corrections.subject import Corrected, Subject
from worker.engine.corrections.weights import put_rows, rows_of, weights
from worker.engine.load import copy_of
from worker.engine.passes.likeness import Outputs, likeness_db
from worker.engine.passes.scopes import (
    FLOATS,
    array,
    as_initializer,
    attribute,
    consumers,
    initializers,
    producers,
)
from worker.engine.ready import Feed

Quantize = Callable[[Subject], onnx.ModelProto]
_BIAS = 2
_STEPS, _FEWEST_STEPS = 500, 250
_WORK = 4_000_000_000_000  # multiplications of all descents together: minutes on one core
_PASSES = 24  # over the samples
_BYTES = 256_000_000  # of the rows that one pass collects
_LEAST, _TINY = np.float32(1e-6), np.float32(1e-20)  # errors that count as none, of the energy and at all
_WORTH_DB = 0.05  # a smaller gain is not told


@dataclass(frozen=True)
class Copy:
    """The quantized model with float constants in the place of the weights to learn.

    Attributes:
        model: in which they are.
        constants: by the weight's name.
        seen: what the weight's node reads, by the weight's name.
    """

    model: onnx.ModelProto
    constants: Mapping[str, onnx.TensorProto]
    seen: Mapping[str, str]


def adaround(subject: Subject, quantize: Quantize) -> Corrected:
    """Round weights up or down as learned on the calibration samples (Nagel et al. 2020, AdaRound).

    1. The codes of `rounding` are the start, and stay where nothing closer is learned.
    2. From the first layer to the last, each learns to hand on what it does in float, behind the Relu or Clip
       that alone reads it, from what the quantized layers before it hand on ("asymmetric reconstruction").
    3. One sample in four is held out. There, each output channel takes the closest of the learned codes,
       those of `rounding` and the nearest; and the outputs of the whole model must be closer than with
       `rounding` alone, or its codes stay.

    Args:
        subject: its model is changed.
        quantize: gives what the quantizer makes of a subject, which stays as it is.
    """
    count = sum(1 for _ in subject.samples("adaround")())
    exact = copy_of(subject.model)
    closed = rounding(subject)
    begun = replace(subject, overrides={**subject.overrides, **closed.overrides})
    copy = _exchangeable(begun, quantize, closed.overrides)
    layers = list(_layers(exact, begun, copy))
    steps = min(_STEPS, _WORK // max(sum(2 * BATCH * layer.values.size for layer in layers), 1))
    if not layers:
        why = "adaround finds no weight to learn"
    elif count < HELD_OUT:
        why = (
            f"adaround holds out one sample in {HELD_OUT}, and there are {count}: the codes of rounding stay"
        )
    elif steps < _FEWEST_STEPS:
        why = f"adaround leaves {len(layers)} weights, too large to learn in time: the codes of rounding stay"
    else:
        why = _learn(subject, exact, copy, layers, steps)
    return replace(closed, reasons=(*closed.reasons, why))


def _exchangeable(subject: Subject, quantize: Quantize, names: Collection[str]) -> Copy:
    """Stems are padded for one kernel, which changes no value: here they are not."""
    model = quantize(replace(subject, setting=replace(subject.setting, isa="generic")))
    makers, known = producers(model.graph), {node.name: node for node in model.graph.node}
    constants, seen = {}, {}
    for weight in weights(subject):
        node = known[weight.node.name]
        maker = makers.get(node.input[1])
        if weight.name in names and maker is not None and maker.op_type == "DequantizeLinear":
            tensor = initializers(subject.model.graph)[weight.name]
            constants[weight.name], seen[weight.name] = model.graph.initializer.add(), node.input[0]
            constants[weight.name].CopyFrom(as_initializer(array(tensor), node.input[1]))
            model.graph.node.remove(maker)
            known_type = helper.make_tensor_value_info(node.input[0], tensor.data_type, None)
            model.graph.value_info.append(known_type)
    return Copy(model, constants, seen)


def _layers(exact: onnx.ModelProto, subject: Subject, copy: Copy) -> Iterator[Layer]:
    """Those whose weights can be exchanged; of very wide ones too few rows fit into memory."""
    constants = initializers(exact.graph)
    for weight in weights(subject):
        if weight.name in copy.seen:
            rows = rows_of(exact, weight)
            values = rows.astype(np.float32).reshape(weight.groups, -1, rows.shape[1])
            layer = Layer(
                weight=weight,
                grid=grid_of(weight, rows, subject.overrides),
                values=values,
                dims=tuple(constants[weight.name].dims),
                bias=_bias(weight.node, constants, values),
                bounds=_bounds(exact.graph, weight.node),
                seen=copy.seen[weight.name],
            )
            if layer.rows >= BATCH:
                yield layer


def _bias(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], values: Floats) -> Floats:
    groups, outputs, _ = values.shape
    if node.op_type == "MatMul" or len(node.input) <= _BIAS or not node.input[_BIAS]:
        return np.zeros((groups, 1, outputs), np.float32)
    bias = array(constants[node.input[_BIAS]]).astype(np.float32) * np.float32(attribute(node, "beta", 1.0))
    return np.broadcast_to(bias, groups * outputs).reshape(groups, 1, outputs)


def _bounds(graph: onnx.GraphProto, node: onnx.NodeProto) -> tuple[float, float]:
    """What the Relu or Clip that alone reads a node lets through."""
    readers = consumers(graph).get(node.output[0], [])
    if len(readers) != 1 or node.output[0] in {value.name for value in graph.output}:
        return -np.inf, np.inf
    if readers[0].op_type == "Relu":
        return 0.0, np.inf
    limits = [initializers(graph).get(name) for name in readers[0].input[1:]]
    if readers[0].op_type != "Clip" or not limits or any(limit is None for limit in limits):
        return -np.inf, np.inf
    lowest, *highest = (float(array(limit)) for limit in limits if limit is not None)
    return lowest, highest[0] if highest else np.inf


def _learn(subject: Subject, exact: onnx.ModelProto, copy: Copy, layers: Sequence[Layer], steps: int) -> str:
    """Put learned codes into the subject's model; what came of it."""
    samples, gains = subject.samples("adaround"), dict[str, float]()
    start, rounded = copy_of(copy.model), copy_of(subject.model)
    for part in _portions(layers):
        for layer, learned, held_out in collect(exact, copy.model, part, samples):
            gains[layer.weight.node.name] = _settle(subject.model, layer, learned, held_out, steps)
            tensor = initializers(subject.model.graph)[layer.weight.name]
            constant = copy.constants[layer.weight.name]
            constant.CopyFrom(as_initializer(array(tensor), constant.name))
    few = [feed for number, feed in enumerate(samples()) if is_held_out(number)]
    reference, before, after = (_outputs(model, few) for model in (exact, start, copy.model))
    decibels = likeness_db(reference, before), likeness_db(reference, after)
    if decibels[1] < decibels[0]:
        subject.model.CopyFrom(rounded)
    return _told(gains, decibels, len(few))


def _portions(layers: Sequence[Layer]) -> Iterator[Sequence[Layer]]:
    """In their order, at most 24 or as many as memory asks for."""
    part: list[Layer] = []
    for layer in layers:
        full = sum(other.bytes for other in part) + layer.bytes > _BYTES
        if part and (full or len(part) == -(-len(layers) // _PASSES)):
            yield part
            part = []
        part.append(layer)
    yield part


def _settle(model: onnx.ModelProto, layer: Layer, learned: Evidence, held_out: Evidence, steps: int) -> float:
    """Store the closest codes of each output channel; by how many decibels they beat those of `rounding`."""
    rows = rows_of(model, layer.weight)
    shape = layer.values.shape
    closed, nearest = (
        found.astype(np.float32).reshape(shape)
        for found in (rows, layer.grid.rounded(layer.values.astype(np.float64).reshape(rows.shape)))
    )
    with np.errstate(over="ignore", invalid="ignore"):  # squares that float32 does not hold: not learned
        unit = errors(layer, nearest, learned) + _LEAST * np.square(learned.wanted).mean() + _TINY
        between = _between(layer)
        shares = settle_shares(between, slope(layer, learned, unit), steps)
        choices = np.stack([closed, nearest, between.at(shares)])
        harm = np.nan_to_num(np.stack([errors(layer, each, held_out) for each in choices]), nan=np.inf)
    best = harm.argmin(axis=0)
    kept = np.take_along_axis(choices, best[None, :, :, None], axis=0)
    put_rows(model, layer.weight, kept.reshape(rows.shape).astype(np.float64))
    total = harm.min(axis=0).sum()
    return float(10 * np.log10(harm[0].sum() / total)) if 0 < total < np.inf else 0.0


def _between(layer: Layer) -> Between:
    """The codes below and above the weights of the float model."""
    rows = layer.values.reshape(-1, layer.values.shape[-1])
    lowest, highest = layer.grid.codes
    exact = rows / layer.grid.scales + layer.grid.zeros
    below = np.clip(np.floor(exact), lowest, highest - 1)
    lower = (below - layer.grid.zeros) * layer.grid.scales
    shape = layer.values.shape
    return Between(
        lower.astype(np.float32).reshape(shape),
        layer.grid.scales.astype(np.float32).reshape(*shape[:2], 1),
        np.clip(exact - below, 0, 1).astype(np.float32).reshape(shape),
    )


def _outputs(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[Outputs]:
    names = [v.name for v in model.graph.output if v.type.tensor_type.elem_type in FLOATS]
    return [[values[name] for name in names] for values in activations(model, names, lambda: feeds)]


def _told(gains: Mapping[str, float], decibels: tuple[float, float], count: int) -> str:
    before, after = decibels
    where = f"on {count} samples held out"
    if after < before:
        told = f"adaround: outputs {after:.1f} dB {where}, with rounding {before:.1f}"
        return f"{told}: the codes of rounding stay"
    closer = [f"{name} {gain:+.1f} dB" for name, gain in gains.items() if gain >= _WORTH_DB]
    same = [name for name, gain in gains.items() if gain < _WORTH_DB]
    told = f"adaround: outputs {after:.1f} dB, with rounding {before:.1f} {where}; closer: {listed(closer)}"
    return told + (f"; the codes of rounding stay in {listed(same)}" if same else "")
