"""SmoothQuant: outliers of activations move into the weights that they meet."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from worker.engine.corrections.activations import recollect, same_outputs
from worker.engine.corrections.balance import even_scales
from worker.engine.corrections.subject import Corrected, Subject
from worker.engine.corrections.weights import Doubles, Weight, put_rows, rows_of, weights
from worker.engine.methods.selection import listed
from worker.engine.passes.scopes import (
    array,
    as_initializer,
    attribute,
    consumers,
    initializers,
    producers,
    tensor_names,
    tensor_types,
    unused_name,
)

_NORMS = frozenset({"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"})
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
        place = _gain_and_bias(subject.model.graph, group)
        limit = 1.0 if place else _WORTH
        if group.remains >= limit or (not place and group.tensor in integers):
            left.append(group.tensor)
            continue
        for weight in group.weights:
            put_rows(subject.model, weight, rows_of(subject.model, weight) * group.scales)
        if place:
            changed |= _fold(subject.model.graph, group, place)
            folded.append(group.tensor)
        else:
            changed.add(_divide(subject.model.graph, group))
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
    for weight in weights(subject.model, subject.nodes, subject.recipe):
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
    return {
        node.output[0] for node in graph.node if node.op_type in _NORMS or _parts(node, written, constants)
    }


def _gain_and_bias(graph: onnx.GraphProto, group: Group) -> tuple[str, ...]:
    """The constants that scale and shift a normalized tensor, when only this group reads them and it."""
    readers = consumers(graph)
    mine = {weight.node.name for weight in group.weights}
    if {node.name for node in readers[group.tensor]} != mine or group.tensor in {
        v.name for v in graph.output
    }:
        return ()
    written, constants = producers(graph), initializers(graph)
    node = written.get(group.tensor)
    if node is None:
        return ()
    found = (
        tuple(node.input[1:3]) if node.op_type == "LayerNormalization" else _parts(node, written, constants)
    )
    rows = all(
        name in constants and len(readers[name]) == 1 and tuple(constants[name].dims) == group.scales.shape
        for name in found
    )
    whole = len(node.output) == 1 or not any(node.output[1:])
    return found if rows and whole else ()


def _parts(
    add: onnx.NodeProto, written: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> tuple[str, ...]:
    """Gain and bias of a LayerNormalization written as Mul and Add."""
    bias = [name for name in add.input if name in constants]
    inner = [written.get(name) for name in add.input if name not in constants]
    if add.op_type != "Add" or len(bias) != 1 or inner[0] is None or inner[0].op_type != "Mul":
        return ()
    gain = [name for name in inner[0].input if name in constants]
    return (gain[0], bias[0]) if len(gain) == 1 else ()


def _fold(graph: onnx.GraphProto, group: Group, place: Sequence[str]) -> set[str]:
    """Divide gain and bias; the tensors that change."""
    constants = initializers(graph)
    for name in place:
        values = array(constants[name])
        constants[name].CopyFrom(as_initializer((values / group.scales).astype(values.dtype), name))
    gained = {out for node in graph.node if set(place) & set(node.input) for out in node.output if out}
    return gained | {group.tensor}


def _divide(graph: onnx.GraphProto, group: Group) -> str:
    """Put a Mul before the group; the tensor that it writes."""
    names, kind = tensor_names(graph), tensor_types(graph)[group.tensor]
    smooth = unused_name(f"{group.tensor}_smooth", names)
    factors = unused_name(f"{group.tensor}_smoothing", names)
    values = (1.0 / group.scales).astype(helper.tensor_dtype_to_np_dtype(kind))
    graph.initializer.append(as_initializer(values, factors))
    graph.value_info.append(helper.make_tensor_value_info(smooth, kind, None))
    mine = {weight.node.name for weight in group.weights}
    first = next(i for i, node in enumerate(graph.node) if node.name in mine)
    for node in graph.node:
        if node.name in mine:
            node.input[0] = smooth
    node = helper.make_node("Mul", [group.tensor, factors], [smooth], f"{smooth}_mul")
    graph.node.insert(first, node)
    return smooth
