"""What a layer reads behind quantized layers, and what it hands on in the float model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from worker.engine.choices.setting import Samples
from worker.engine.corrections.activations import activations
from worker.engine.corrections.held_out import is_held_out
from worker.engine.corrections.hessians import rows_read
from worker.engine.corrections.relaxation import Floats, Slope
from worker.engine.corrections.weights import Grid, Weight

BATCH = 256  # rows that one step of descent looks at
_ROWS = 12_288  # over all samples: with a third of them, wide layers learn the samples by heart
_BYTES = 64_000_000  # of one layer's rows
_SEED = 20_261_121


@dataclass(frozen=True)
class Layer:
    """A node whose weight is learned, and the activation function that alone reads it.

    Attributes:
        weight: its weight.
        grid: of the weight's rows.
        values: of the float model, [groups, outputs, columns].
        dims: of the weight in the file.
        bias: [groups, 1, outputs].
        bounds: between which the activation function lets values through.
        seen: the tensor that the node reads in the quantized model.
    """

    weight: Weight
    grid: Grid
    values: Floats
    dims: tuple[int, ...]
    bias: Floats
    bounds: tuple[float, float]
    seen: str

    @property
    def rows(self) -> int:
        """How many rows of its inputs are looked at, over all samples."""
        return min(_ROWS, _BYTES // self._row_bytes)

    @property
    def bytes(self) -> int:
        """What these rows take."""
        return self.rows * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        groups, outputs, columns = self.values.shape
        return 4 * int(groups * (outputs + columns))

    def handed_on(self, inputs: Floats, values: Floats) -> Floats:
        """What other layers read, [groups, rows, outputs]."""
        products = np.matmul(inputs, values.transpose(0, 2, 1)) + self.bias
        passed: Floats = np.clip(products, *self.bounds)
        return passed


@dataclass(frozen=True)
class Evidence:
    """Rows of samples.

    Attributes:
        inputs: as the quantized layers before hand them on, [groups, rows, columns].
        wanted: what the float layer makes of its own inputs there, [groups, rows, outputs].
    """

    inputs: Floats
    wanted: Floats


def collect(
    exact: onnx.ModelProto, quantized: onnx.ModelProto, layers: Sequence[Layer], samples: Samples
) -> Iterator[tuple[Layer, Evidence, Evidence]]:
    """Each layer with what it learns from, and with what is held out.

    Args:
        exact: the float model.
        quantized: the same nodes, as far as they are quantized.
        layers: all that are to be looked at in one pass.
        samples: gives the calibration feeds anew at each call; at least four.
    """
    count = sum(1 for _ in samples())
    parts: list[tuple[list[Evidence], list[Evidence]]] = [([], []) for _ in layers]
    read, seen = sorted({x.weight.node.input[0] for x in layers}), sorted({x.seen for x in layers})
    pairs = zip(activations(exact, read, samples), activations(quantized, seen, samples), strict=True)
    for number, (before, now) in enumerate(pairs):
        for layer, part in zip(layers, parts, strict=True):
            wanted = -(-layer.rows // count)
            own, other = (
                rows_read(layer.weight, layer.dims, values, wanted)
                for values in (before[layer.weight.node.input[0]], now[layer.seen])
            )
            part[is_held_out(number)].append(Evidence(other, layer.handed_on(own, layer.values)))
    for layer, (learned, held_out) in zip(layers, parts, strict=True):
        yield layer, _joined(learned), _joined(held_out)


def _joined(parts: Sequence[Evidence]) -> Evidence:
    return Evidence(
        np.concatenate([part.inputs for part in parts], axis=1),
        np.concatenate([part.wanted for part in parts], axis=1),
    )


def errors(layer: Layer, values: Floats, evidence: Evidence) -> Floats:
    """The mean squared error of what is handed on, [groups, outputs]."""
    wrong = layer.handed_on(evidence.inputs, values) - evidence.wanted
    squares: Floats = np.square(wrong).mean(axis=1)
    return squares


def slope(layer: Layer, evidence: Evidence, unit: Floats) -> Slope:
    """The slope of the errors, in these units [groups, outputs], on rows drawn anew each time by a seed."""
    draw = np.random.default_rng(_SEED)
    lowest, highest = layer.bounds

    def found(values: Floats) -> Floats:
        drawn = draw.integers(evidence.inputs.shape[1], size=BATCH)
        inputs = evidence.inputs[:, drawn]
        products = np.matmul(inputs, values.transpose(0, 2, 1)) + layer.bias
        wrong = np.clip(products, lowest, highest) - evidence.wanted[:, drawn]
        wrong *= (products > lowest) & (products < highest)
        pull: Floats = np.matmul(wrong.transpose(0, 2, 1), inputs) * np.float32(2 / BATCH)
        return pull / unit[:, :, None]

    return found
