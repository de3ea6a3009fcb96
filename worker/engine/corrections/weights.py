"""The weights that corrections work on, as rows, and the integer grid that each of them gets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import QuantType

from app.domain.recipe import Calibrated
from worker.engine.choices.islands import has_weights
from worker.engine.choices.overrides import TYPES, channel_axis, entries
from worker.engine.corrections.subject import Subject
from worker.engine.passes.scopes import array, as_initializer, attribute, consumers, initializers

Doubles = npt.NDArray[np.float64]
# lowest and highest code, and the same with ranges reduced to 7 bits
_CODES = {
    QuantType.QInt8: ((-127, 127), (-64, 64)),
    QuantType.QUInt8: ((0, 255), (0, 127)),
    QuantType.QInt4: ((-7, 7), (-7, 7)),
}


@dataclass(frozen=True)
class Weight:
    """A constant that one chosen node multiplies by, and the codes that it is quantized to.

    `axis` counts output channels; `per_channel` tells whether each of them has a scale of its own.
    """

    node: onnx.NodeProto
    name: str
    axis: int
    channels: int  # that each output sums
    per_channel: bool
    symmetric: bool
    kind: QuantType
    codes: tuple[int, int]

    @property
    def groups(self) -> int:
        """Into how many parts a Conv splits its channels; 1 for products."""
        return int(attribute(self.node, "group", 1)) if self.node.op_type == "Conv" else 1


def weights(subject: Subject) -> Iterator[Weight]:
    """The weights of the chosen nodes in the order of the graph, but not those that several nodes read."""
    graph, recipe = subject.model.graph, subject.recipe
    constants, readers = initializers(graph), consumers(graph)
    given, _ = entries(graph, subject.nodes, recipe, subject.exceptions)
    for node in graph.node:
        if node.name in subject.nodes and has_weights(node, constants) and len(readers[node.input[1]]) == 1:
            dims = constants[node.input[1]].dims
            yield _weight(node, dims, recipe, given.get(node.input[1], [{}])[0])


def _weight(
    node: onnx.NodeProto, dims: Sequence[int], recipe: Calibrated, given: Mapping[str, Any]
) -> Weight:
    kind = given.get("quant_type", TYPES[recipe.weight])
    per_channel = "axis" in given if given else bool(recipe.per_channel)
    signed = kind is not QuantType.QUInt8
    return Weight(
        node=node,
        name=node.input[1],
        axis=channel_axis(node),
        channels=dims[1] if node.op_type == "Conv" else dims[1 - channel_axis(node)],
        per_channel=per_channel,
        symmetric=per_channel or signed or bool(given.get("symmetric", recipe.symmetric.weight)),
        kind=kind,
        codes=_CODES[kind][bool(given.get("reduce_range", False))],
    )


@dataclass(frozen=True)
class Grid:
    """Scales and zero points of a weight's rows, float64 [rows, 1]; equal where there is one for all."""

    scales: Doubles
    zeros: Doubles
    codes: tuple[int, int]

    def rounded(self, rows: Doubles) -> Doubles:
        """The closest values of the grid."""
        return (np.clip(np.rint(rows / self.scales + self.zeros), *self.codes) - self.zeros) * self.scales

    def clipped(self, rows: Doubles) -> Doubles:
        """The rows within the ends of the grid; the quantizer would go on to the ends of the type."""
        low, high = ((code - self.zeros) * self.scales for code in self.codes)
        return np.clip(rows, low, high)


def whole_range(weight: Weight, rows: Doubles, share: Doubles | float = 1.0) -> Grid:
    """The grid over all values, or over this share of them, as ONNX Runtime's quantizer lays it.

    Args:
        weight: whose rows these are.
        rows: [rows, columns].
        share: of the range, one number or [rows, 1].
    """
    lowest, highest = weight.codes
    low = np.minimum(rows.min(axis=1, keepdims=True, initial=0.0), 0.0)
    high = np.maximum(rows.max(axis=1, keepdims=True, initial=0.0), 0.0)
    if not weight.per_channel:
        low, high = (np.full_like(ends, end) for ends, end in ((low, low.min()), (high, high.max())))
    if weight.symmetric:
        high = np.maximum(-low, high)
        low = -high
    width = (high - low) * share
    tiny = float(np.finfo(np.float32).tiny)
    scales = np.where(width / (highest - lowest) > tiny, width / (highest - lowest), 1.0)
    scales = scales.astype(np.float32).astype(np.float64)  # what the file can hold
    zeros = (lowest + highest + 1) // 2 if weight.symmetric else np.rint(lowest - low * share / scales)
    return Grid(scales, np.broadcast_to(np.asarray(zeros, np.float64), scales.shape), weight.codes)


def rows_of(model: onnx.ModelProto, weight: Weight) -> Doubles:
    """A weight as float64 [output channels, what each of them sums]."""
    values = array(initializers(model.graph)[weight.name]).astype(np.float64)
    rows: Doubles = np.moveaxis(values, weight.axis, 0)
    return rows.reshape(len(rows), -1)


def put_rows(model: onnx.ModelProto, weight: Weight, rows: Doubles) -> None:
    """Store what `rows_of` gave, changed."""
    tensor = initializers(model.graph)[weight.name]
    shape = np.moveaxis(array(tensor), weight.axis, 0).shape
    values = np.moveaxis(rows.reshape(shape), 0, weight.axis).astype(array(tensor).dtype)
    tensor.CopyFrom(as_initializer(values, weight.name))


def overrides(weight: Weight, grid: Grid) -> list[dict[str, Any]]:
    """A grid as entries of ONNX Runtime's `TensorQuantOverrides`."""
    count = len(grid.scales) if weight.per_channel else 1
    rows: list[dict[str, Any]] = [
        {
            "quant_type": weight.kind,
            "scale": np.float32(grid.scales[i, 0]),
            "zero_point": np.int32(grid.zeros[i, 0]),
        }
        for i in range(count)
    ]
    if weight.per_channel:
        rows[0]["axis"] = weight.axis
    return rows
