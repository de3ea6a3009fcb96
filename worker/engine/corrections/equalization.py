"""Cross-layer equalization: sizes of channels move between two layers until both quantize well (DFQ)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from worker.engine.choices.selection import listed
from worker.engine.corrections.activations import recollect, same_outputs
from worker.engine.corrections.balance import best_scales, by_group
from worker.engine.corrections.subject import Corrected, Subject
from worker.engine.corrections.weights import Doubles, Weight, put_rows, rows_of, weights
from worker.engine.passes.scopes import array, as_initializer, consumers, initializers

# f(s·x) = s·f(x) for s > 0, channel by channel: a scale passes through
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})
_BIAS = 2
_MOST_ROUNDS = 20
_CONVERGED = 1e-3
_TINY = float(np.finfo(np.float32).tiny)
_WORTH = 0.9  # of the estimated error may remain for scales per channel to be worth it


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
    3. With one scale per channel the first weight's rows are free, and the tensor between takes their place:
       its channels get the scales of least estimated error against the weights that read it, as in
       SmoothQuant; pairs that would win less than a tenth are left.
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
    count = _equalize(subject, pairs)
    if not same_outputs(before, subject.model, samples):
        subject.model.CopyFrom(before)
        return Corrected(statistics=subject.statistics, reasons=("equalization undone: float outputs moved",))
    changed = {tensor for pair in pairs for tensor in pair.between}
    statistics = recollect(subject.model, subject.statistics, changed, samples)
    names = [f"{pair.first.node.name} → {pair.second.node.name}" for pair in pairs]
    return Corrected(
        statistics=statistics, reasons=(f"equalization of {count} pairs among {listed(names)}", *parted)
    )


def _pairs(subject: Subject) -> tuple[list[Pair], list[str]]:
    graph = subject.model.graph
    readers, outputs = consumers(graph), {value.name for value in graph.output}
    constants = initializers(graph)
    known = {w.node.name: w for w in weights(subject)}
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


def _equalize(subject: Subject, pairs: Sequence[Pair]) -> int:
    """Scale until nothing moves; how many pairs changed."""
    alike = [pair for pair in pairs if _same_channels(subject.model, pair)]
    free = [pair for pair in alike if pair.first.per_channel and pair.second.per_channel]
    changed = sum(_balance(subject, pair) for pair in free)
    rest = [pair for pair in alike if pair not in free]
    sizes = {pair.between[-1]: _sizes(subject, pair) for pair in rest}
    for _ in range(_MOST_ROUNDS):
        moved = max((_even_out(subject.model, pair, sizes) for pair in rest), default=0.0)
        if moved < _CONVERGED:
            break
    return changed + len(rest)


def _sizes(subject: Subject, pair: Pair) -> Doubles:
    """What channels reach as shares of what the largest does, in calibration or by its bias.

    Almost empty weights would grow without end if calibration never saw what they lead to, and the bias with
    them until no 32-bit integer holds it.
    """
    largest = subject.statistics.channel_maximum(pair.between[-1])
    if largest is None:
        return np.ones(pair.second.groups * pair.second.channels)
    shares: Doubles = largest / max(largest.max(), _TINY)
    if pair.bias:
        biases = np.abs(array(initializers(subject.model.graph)[pair.bias]))
        shares = np.maximum(shares, biases / max(biases.max(), _TINY))
    return shares


def _same_channels(model: onnx.ModelProto, pair: Pair) -> bool:
    """Whether the second node reads as many channels as the first one writes."""
    return len(rows_of(model, pair.first)) == pair.second.groups * pair.second.channels


def _balance(subject: Subject, pair: Pair) -> bool:
    """Between scales per channel: choose by the tensor that is read and the weights that it meets."""
    extent = subject.statistics.tensors.get(pair.between[-1])
    rows = rows_of(subject.model, pair.first)
    if extent is None or extent.channels is None or len(extent.channels) != len(rows):
        return False
    scales, remains = best_scales(extent, _split(pair.second, rows_of(subject.model, pair.second)))
    if remains > _WORTH:
        return False
    _apply(subject.model, pair, scales)
    return True


def _even_out(model: onnx.ModelProto, pair: Pair, sizes: dict[str, Doubles]) -> float:
    """Between single scales: make rows and columns equal; the largest logarithm of a scale.

    No channel grows beyond the largest (the paper absorbs its bias instead). `sizes` follow.
    """
    rows = np.abs(rows_of(model, pair.first)).max(axis=1)
    columns = np.abs(_split(pair.second, rows_of(model, pair.second))).max(axis=(1, 3)).reshape(-1)
    usable = (rows > 0) & (columns > 0)
    scales = np.sqrt(rows / np.where(usable, columns, 1.0), where=usable, out=np.ones_like(rows))
    scales = np.maximum(scales, sizes[pair.between[-1]])
    sizes[pair.between[-1]] = sizes[pair.between[-1]] / scales
    _apply(model, pair, scales)
    return float(np.abs(np.log(scales)).max())


def _split(second: Weight, rows: Doubles) -> Doubles:
    """Rows as [groups, outputs of each, channels of each, kernel]."""
    return rows.reshape(second.groups, len(rows) // second.groups, second.channels, -1)


def _apply(model: onnx.ModelProto, pair: Pair, scales: Doubles) -> None:
    put_rows(model, pair.first, rows_of(model, pair.first) / scales[:, None])
    if pair.bias:
        tensor = initializers(model.graph)[pair.bias]
        values = (array(tensor) / scales).astype(array(tensor).dtype)
        tensor.CopyFrom(as_initializer(values, pair.bias))
    rows = rows_of(model, pair.second)
    split = _split(pair.second, rows)
    put_rows(model, pair.second, (split * by_group(scales, split)).reshape(rows.shape))
