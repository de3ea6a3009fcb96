"""Cross-layer equalization: sizes of channels move between two layers until both quantize well (DFQ)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from worker.engine.corrections.activations import recollect, same_outputs
from worker.engine.corrections.subject import Corrected, Subject
from worker.engine.corrections.weights import Doubles, Weight, put_rows, rows_of, weights
from worker.engine.methods.selection import listed
from worker.engine.passes.scopes import array, as_initializer, consumers, initializers

# f(s·x) = s·f(x) for s > 0, channel by channel: a scale passes through
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})
_BIAS = 2
_MOST_ROUNDS = 20
_CONVERGED = 1e-3
_REACH = 64.0  # channels smaller than this share of the largest are not grown further: noise would grow too


@dataclass(frozen=True)
class Pair:
    """Two weighted nodes and what lies between them.

    `bias` belongs to `first`, empty where it has none; `between` are the tensors from the first one's output
    to the second one's input.
    """

    first: Weight
    bias: str
    between: tuple[str, ...]
    second: Weight


def equalization(subject: Subject) -> Corrected:
    """Scale channels down where one layer writes them and up where the next reads them (Nagel et al. 2019).

    1. Pairs of Conv, Gemm and MatMul, chains included, that only Relu, LeakyRelu and pooling join and whose
       tensors nothing else reads. A Clip has bounds that hold for all channels alike, so it parts them.
    2. With one scale per weight, the sizes of the first weight's rows and of the second one's columns become
       equal, s = sqrt(first / second), until nothing moves (the paper).
    3. With one scale per channel rows are free, and the tensor between takes their place: its channels become
       as large as their columns, and all of one size before a depthwise Conv, whose columns are rows.
    4. Statistics between are observed anew. A model whose float outputs moved is put back.
    """
    samples = subject.samples("equalization")
    before = onnx.ModelProto()
    before.CopyFrom(subject.model)
    pairs, parted = _pairs(subject)
    if not pairs:
        return Corrected(
            statistics=subject.statistics, reasons=("equalization finds no pair of layers", *parted)
        )
    _equalize(subject, pairs)
    if not same_outputs(before, subject.model, samples):
        subject.model.CopyFrom(before)
        return Corrected(statistics=subject.statistics, reasons=("equalization undone: float outputs moved",))
    changed = {tensor for pair in pairs for tensor in pair.between}
    statistics = recollect(subject.model, subject.statistics, changed, samples)
    names = [f"{pair.first.node.name} → {pair.second.node.name}" for pair in pairs]
    return Corrected(
        statistics=statistics, reasons=(f"equalization of {len(pairs)} pairs: {listed(names)}", *parted)
    )


def _pairs(subject: Subject) -> tuple[list[Pair], list[str]]:
    graph = subject.model.graph
    readers, outputs = consumers(graph), {value.name for value in graph.output}
    constants = initializers(graph)
    known = {w.node.name: w for w in weights(subject.model, subject.nodes, subject.recipe)}
    pairs, clipped = list[Pair](), list[str]()
    for first in known.values():
        bias = first.node.input[_BIAS] if len(first.node.input) > _BIAS else ""
        tensor, between = first.node.output[0], list[str]()
        while tensor not in outputs and len(readers.get(tensor, [])) == 1:
            between.append(tensor)
            (reader,) = readers[tensor]
            if reader.name in known and reader.input[0] == tensor:
                second = known[reader.name]
                if _fit(first, second) and (not bias or len(readers[bias]) == 1):
                    pairs.append(Pair(first, bias, tuple(between), second))
                break
            if first.node.op_type == "MatMul" and not bias and _adds_row(reader, constants):
                bias = reader.input[1] if reader.input[1] in constants else reader.input[0]
            elif reader.op_type == "Clip":
                clipped.append(first.node.name)
                break
            elif reader.op_type not in _HOMOGENEOUS or len(reader.output) > 1:
                break
            tensor = reader.output[0]
    return pairs, [f"equalization leaves what a Clip bounds: {listed(clipped)}"] if clipped else []


def _adds_row(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    return node.op_type == "Add" and any(
        name in constants and len(constants[name].dims) == 1 for name in node.input
    )


def _fit(first: Weight, second: Weight) -> bool:
    """Whether both count the same axis: channels of a Conv, columns of a product."""
    return (first.node.op_type == "Conv") == (second.node.op_type == "Conv")


def _equalize(subject: Subject, pairs: Sequence[Pair]) -> None:
    tensors = {pair.between[-1] for pair in pairs}
    found = {name: subject.statistics.channel_maximum(name) for name in tensors}
    sizes: dict[str, Doubles] = {name: largest for name, largest in found.items() if largest is not None}
    for _ in range(_MOST_ROUNDS):
        moved = 0.0
        for pair in pairs:
            read = pair.between[-1]
            scale = _scales(subject.model, pair, sizes.get(read))
            if scale is not None:
                _apply(subject.model, pair, scale)
                sizes |= {read: sizes[read] / scale} if read in sizes else {}
                moved = max(moved, float(np.abs(np.log(scale)).max()))
        if moved < _CONVERGED:
            return


def _scales(model: onnx.ModelProto, pair: Pair, sizes: Doubles | None) -> Doubles | None:
    """By what each channel of the first node's output is divided; None where channels cannot be told."""
    rows = rows_of(model, pair.first)
    columns = _columns(pair.second, rows_of(model, pair.second))
    if len(columns) != len(rows):
        return None
    if pair.first.per_channel and pair.second.per_channel:
        return None if sizes is None or len(sizes) != len(rows) else _ratio(sizes, columns)
    return _ratio(np.abs(rows).max(axis=1), columns)


def _columns(second: Weight, rows: Doubles) -> Doubles:
    """How large the second weight is by channel that it reads, in units of what its scales see."""
    split = np.abs(rows).reshape(second.groups, len(rows) // second.groups, -1, _kernel(second, rows))
    if second.per_channel:
        largest = split.max(axis=(2, 3), keepdims=True)
        split = split / np.where(largest > 0, largest, 1.0)
    largest_of_columns: Doubles = split.max(axis=(1, 3)).reshape(-1)
    return largest_of_columns


def _kernel(second: Weight, rows: Doubles) -> int:
    return int(rows.shape[1]) // second.channels


def _ratio(first: Doubles, second: Doubles) -> Doubles:
    """Scales that make both alike; 1 for channels that are empty, and their mean size is kept."""
    usable = (first > first.max(initial=0) / _REACH**2) & (second > 0)
    if not usable.any():
        return np.ones_like(first)
    scale = np.sqrt(first / np.where(usable, second, 1.0), where=usable, out=np.ones_like(first))
    scale[usable] /= np.exp(np.log(scale[usable]).mean())
    return scale


def _apply(model: onnx.ModelProto, pair: Pair, scale: Doubles) -> None:
    put_rows(model, pair.first, rows_of(model, pair.first) / scale[:, None])
    if pair.bias:
        tensor = initializers(model.graph)[pair.bias]
        values = (array(tensor) / scale).astype(array(tensor).dtype)
        tensor.CopyFrom(as_initializer(values, pair.bias))
    rows = rows_of(model, pair.second)
    shape = (pair.second.groups, len(rows) // pair.second.groups, -1, _kernel(pair.second, rows))
    grown = rows.reshape(shape) * scale.reshape(pair.second.groups, 1, -1, 1)
    put_rows(model, pair.second, grown.reshape(rows.shape))
