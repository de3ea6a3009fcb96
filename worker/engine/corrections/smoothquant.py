"""SmoothQuant: outliers of activations move into the weights that they meet."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from worker.engine.corrections.activations import recollect, same_outputs
from worker.engine.corrections.balance import even_scales
from worker.engine.corrections.subject import Corrected, Subject
from worker.engine.corrections.weights import Doubles, Weight, put_rows, rows_of, weights
from worker.engine.methods.selection import listed
from worker.engine.methods.smoothing import NORMS, divide, fold, gain_and_bias, parts
from worker.engine.passes.scopes import attribute, initializers, producers

_WORTH = 0.7  # of the error may remain for an added Mul to be worth its time


@dataclass(frozen=True)
class Group:
    """Products that read one tensor: they share its scales, [channels]."""

    tensor: str
    weights: tuple[Weight, ...]
    scales: Doubles
    remains: float  # of the estimated error


def smoothquant(subject: Subject) -> Corrected:
    """Divide the channels of what products read, and multiply their weights' columns (Xiao et al. 2022).

    1. Products that read the same normalized tensor take one set of scales, sqrt(activations / weights) by
       the largest values of their channels (the paper's, at alpha 0.5). A normalization's outliers are in the
       same channels for all data. Elsewhere, as behind an activation or attention, they are not, and the
       channels that calibration found small would be clipped.
    2. Where only these products read the tensor, the scales go into the gain and bias of a
       LayerNormalization, whole or in parts, and cost nothing. Else a Mul divides, where three tenths of the
       error go away and the tensor is float: behind a quantized node it would part what runs in integers.
    3. Statistics are observed anew. A model whose float outputs moved is put back.
    """
    samples = subject.samples("smoothquant")
    before = onnx.ModelProto()
    before.CopyFrom(subject.model)
    folded, added, left, changed = list[str](), list[str](), list[str](), set[str]()
    integers = {out for node in before.graph.node if node.name in subject.nodes for out in node.output}
    products = _products(subject)
    groups = list(_groups(subject, products))
    for group in groups:
        readers = {weight.node.name for weight in group.weights}
        place = gain_and_bias(subject.model.graph, group.tensor, readers, len(group.scales))
        limit = 1.0 if place else _WORTH
        if group.remains >= limit or (not place and group.tensor in integers):
            left.append(group.tensor)
            continue
        for weight in group.weights:
            put_rows(subject.model, weight, rows_of(subject.model, weight) * group.scales)
        if place:
            changed |= fold(subject.model.graph, place, group.scales) | {group.tensor}
            folded.append(group.tensor)
        else:
            changed.add(divide(subject.model.graph, group.tensor, group.scales, readers))
            added.append(group.tensor)
    others = [tensor for tensor in products if tensor not in {group.tensor for group in groups}]
    reasons = _reasons(folded, added, left, others)
    if not changed:
        return Corrected(statistics=subject.statistics, reasons=reasons)
    if not same_outputs(before, subject.model, samples):
        subject.model.CopyFrom(before)
        return Corrected(statistics=subject.statistics, reasons=("smoothquant undone: float outputs moved",))
    statistics = recollect(subject.model, subject.statistics, changed, samples)
    return Corrected(statistics=statistics, reasons=reasons)


def _reasons(
    folded: Sequence[str], added: Sequence[str], left: Sequence[str], others: Sequence[str]
) -> tuple[str, ...]:
    said = {
        "smoothquant scaled the LayerNormalization before": folded,
        "smoothquant added a Mul behind": added,
        "smoothquant leaves, for it would win too little or part integers": left,
        "smoothquant leaves, for no normalization wrote it": others,
    }
    found = tuple(f"{what} {listed(tensors)}" for what, tensors in said.items() if tensors)
    return found or ("smoothquant finds no product with a constant weight",)


def _products(subject: Subject) -> dict[str, list[Weight]]:
    """The chosen MatMul and Gemm by the tensor that they read."""
    found: dict[str, list[Weight]] = {}
    for weight in weights(subject):
        if weight.node.op_type != "Conv" and not attribute(weight.node, "transA", 0):
            found.setdefault(weight.node.input[0], []).append(weight)
    return found


def _groups(subject: Subject, products: Mapping[str, Sequence[Weight]]) -> Iterator[Group]:
    """Groups of products that read a normalized tensor whose channels are known."""
    normalized = _normalized(subject.model.graph)
    for tensor, readers in products.items():
        largest = subject.statistics.channel_maximum(tensor)
        known = largest is not None and all(weight.channels == len(largest) for weight in readers)
        if known and tensor in normalized:
            rows = np.concatenate([rows_of(subject.model, weight) for weight in readers])
            scales, remains = even_scales(subject.statistics.tensors[tensor], rows[None, :, :, None])
            yield Group(tensor, tuple(readers), scales, remains)


def _normalized(graph: onnx.GraphProto) -> set[str]:
    """What normalizations write, whole or in parts."""
    written, constants = producers(graph), initializers(graph)
    return {node.output[0] for node in graph.node if node.op_type in NORMS or parts(node, written, constants)}
