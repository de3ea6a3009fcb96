"""SmoothQuant: outliers of activations move into the weights that they meet."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from worker.engine.choices.selection import listed
from worker.engine.corrections.activations import recollect, same_outputs
from worker.engine.corrections.balance import even_scales, outlier_scales
from worker.engine.corrections.smoothing import NORMS, divide, fold, gain_and_bias, parts
from worker.engine.corrections.subject import Corrected, Subject
from worker.engine.corrections.weights import Doubles, Weight, put_rows, rows_of, weights
from worker.engine.passes.scopes import attribute, initializers, producers

_FOLDED, _ADDED = "scaled the LayerNormalization before", "added a Mul behind"
_LEFT = "leaves, for it would win too little or part integers:"
_WORTH = 0.5  # of the error may remain for an added Mul to be worth its time


@dataclass(frozen=True)
class Group:
    """Products that read one tensor: they share its scales, [channels]."""

    tensor: str
    weights: tuple[Weight, ...]
    scales: Doubles
    remains: float  # of the estimated error


@dataclass(frozen=True)
class Moved:
    """What became of a group, and the tensors whose values are others now."""

    tensor: str
    how: str
    changed: Collection[str]


def smoothquant(subject: Subject) -> Corrected:
    """Divide the channels of what products read, and multiply their weights' columns (Xiao et al. 2022).

    1. Products that read the same tensor take one set of scales. Behind a normalization, whose outliers are
       in the same channels for all data, it is sqrt(activations / weights) by the largest values of the
       channels (the paper's, at alpha 0.5). Elsewhere, as behind an activation or attention, the channels
       that calibration found small would be clipped: only outlying ones are divided, by two at most.
    2. Where only these products read the tensor, the scales go into the gain and bias of a
       LayerNormalization, whole or in parts, and cost nothing. Else a Mul divides, where half of the error
       goes away and the tensor is float: behind a quantized node it would part what runs in integers.
    3. Statistics are observed anew. A model whose float outputs moved is put back.
    """
    samples = subject.samples("smoothquant")
    before = onnx.ModelProto()
    before.CopyFrom(subject.model)
    integers = {out for node in before.graph.node if node.name in subject.nodes for out in node.output}
    done = [_move(subject.model, group, integers) for group in _groups(subject)]
    changed = {tensor for one in done for tensor in one.changed}
    reasons = _reasons(done)
    if not changed:
        return Corrected(statistics=subject.statistics, reasons=reasons)
    if not same_outputs(before, subject.model, samples):
        subject.model.CopyFrom(before)
        return Corrected(statistics=subject.statistics, reasons=("smoothquant undone: float outputs moved",))
    statistics = recollect(subject.model, subject.statistics, changed, samples)
    return Corrected(statistics=statistics, reasons=reasons)


def _move(model: onnx.ModelProto, group: Group, integers: Collection[str]) -> Moved:
    """Take a group's scales out of its tensor and into its weights, where that is worth what it costs."""
    readers = {weight.node.name for weight in group.weights}
    place = gain_and_bias(model.graph, group.tensor, readers, len(group.scales))
    limit = 1.0 if place else _WORTH
    if group.remains >= limit or (not place and group.tensor in integers):
        return Moved(group.tensor, _LEFT, frozenset())
    for weight in group.weights:
        put_rows(model, weight, rows_of(model, weight) * group.scales)
    if place:
        return Moved(group.tensor, _FOLDED, fold(model.graph, place, group.scales) | {group.tensor})
    return Moved(group.tensor, _ADDED, frozenset({divide(model.graph, group.tensor, group.scales, readers)}))


def _reasons(done: Sequence[Moved]) -> tuple[str, ...]:
    said = {how: [one.tensor for one in done if one.how == how] for how in (_FOLDED, _ADDED, _LEFT)}
    found = tuple(f"smoothquant {how} {listed(tensors)}" for how, tensors in said.items() if tensors)
    return found or ("smoothquant finds no product with a constant weight",)


def _products(subject: Subject) -> dict[str, list[Weight]]:
    """The chosen MatMul and Gemm by the tensor that they read."""
    found: dict[str, list[Weight]] = {}
    for weight in weights(subject):
        if weight.node.op_type != "Conv" and not attribute(weight.node, "transA", 0):
            found.setdefault(weight.node.input[0], []).append(weight)
    return found


def _groups(subject: Subject) -> Iterator[Group]:
    """Groups of products that read one tensor whose channels are known."""
    normalized = _normalized(subject.model.graph)
    for tensor, readers in _products(subject).items():
        largest = subject.statistics.channel_maximum(tensor)
        if largest is not None and all(weight.channels == len(largest) for weight in readers):
            rows = np.concatenate([rows_of(subject.model, weight) for weight in readers])
            least = even_scales if tensor in normalized else outlier_scales
            scales, remains = least(subject.statistics.tensors[tensor], rows[None, :, :, None])
            yield Group(tensor, tuple(readers), scales, remains)


def _normalized(graph: onnx.GraphProto) -> set[str]:
    """What normalizations write, whole or in parts."""
    written, constants = producers(graph), initializers(graph)
    return {node.output[0] for node in graph.node if node.op_type in NORMS or parts(node, written, constants)}
