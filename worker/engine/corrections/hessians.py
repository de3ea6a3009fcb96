"""What the calibration samples say about each weight: the sums of `x.T @ x` over what it multiplies."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from worker.engine.choices.setting import Samples
from worker.engine.corrections.activations import activations
from worker.engine.corrections.weights import Doubles, Weight
from worker.engine.passes.scopes import array, attribute, initializers

Floats = npt.NDArray[np.float32]
BUDGET = 512_000_000  # bytes of sums that one pass collects
_ROWS_PER_COLUMN = 8  # more rows say little more about a matrix of so many columns
_LEAST_ROWS = 4096  # over all samples
_SEED = 20_261_121


def hessians(
    model: onnx.ModelProto, weights: Sequence[Weight], samples: Samples
) -> Iterator[tuple[Weight, Doubles]]:
    """Each weight with its sums [groups, columns, columns]; memory does not grow with the samples.

    Where a sample has more rows than are needed, some are drawn by a seed.

    Args:
        model: the float model.
        weights: of Conv, MatMul or Gemm; those whose sums alone exceed the budget are left out.
        samples: gives the calibration feeds anew at each call.
    """
    constants = initializers(model.graph)
    shapes = {weight.name: _shape(weight, tuple(constants[weight.name].dims)) for weight in weights}
    count = sum(1 for _ in samples())
    fitting = [weight for weight in weights if _bytes(shapes[weight.name]) <= BUDGET]
    for part in _passes(fitting, shapes):
        sums = {weight.name: np.zeros(shapes[weight.name]) for weight in part}
        tensors = sorted({weight.node.input[0] for weight in part})
        for values in activations(model, tensors, samples):
            for weight in part:
                columns = shapes[weight.name][1]
                wanted = -(-max(_LEAST_ROWS, _ROWS_PER_COLUMN * columns) // max(count, 1))
                rows = rows_read(
                    weight, array(constants[weight.name]).shape, values[weight.node.input[0]], wanted
                )
                sums[weight.name] += np.matmul(rows.transpose(0, 2, 1), rows)
        yield from ((weight, sums[weight.name]) for weight in part)


def _shape(weight: Weight, dims: tuple[int, ...]) -> tuple[int, int, int]:
    columns = int(np.prod(dims)) // dims[weight.axis]
    return weight.groups, columns, columns


def _bytes(shape: tuple[int, int, int]) -> int:
    return int(np.prod(shape)) * 8


def _passes(weights: Sequence[Weight], shapes: dict[str, tuple[int, int, int]]) -> list[list[Weight]]:
    parts: list[list[Weight]] = []
    room = 0
    for weight in weights:
        size = _bytes(shapes[weight.name])
        if not parts or size > room:
            parts.append([])
            room = BUDGET
        parts[-1].append(weight)
        room -= size
    return parts


def rows_read(weight: Weight, shape: tuple[int, ...], values: Floats, wanted: int) -> Floats:
    """What the rows of a weight are multiplied with, [groups, rows, columns]."""
    if weight.node.op_type == "Conv":
        return _patches(weight.node, shape, values, wanted)
    if weight.node.op_type == "Gemm" and attribute(weight.node, "transA", 0):
        values = values.T
    flat = values.reshape(-1, values.shape[-1])
    return flat[_drawn(len(flat), wanted)][None].astype(np.float32)


def _patches(node: onnx.NodeProto, shape: tuple[int, ...], images: Floats, wanted: int) -> Floats:
    """Patches of images [N, C, …] that a Conv reads, at positions drawn by a seed."""
    kernel, rank = shape[2:], len(shape) - 2
    strides = attribute(node, "strides", [1] * rank)
    dilations = attribute(node, "dilations", [1] * rank)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    padded = np.pad(images, [(0, 0), (0, 0), *_pads(node, images.shape[2:], reach, strides)])
    axes = tuple(range(2, 2 + rank))
    windows: npt.NDArray[Any] = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    windows = windows[tuple(slice(None, None, step) for step in (1, 1, *strides, *dilations))]
    positions = windows.shape[2 : 2 + rank]
    drawn = _drawn(int(np.prod(positions)), -(-wanted // len(images)))
    where: tuple[Any, ...] = (slice(None), slice(None), *np.unravel_index(drawn, positions))
    picked = windows[where]  # [N, C, P, …kernel]
    groups = int(attribute(node, "group", 1))
    split = picked.reshape(len(images), groups, shape[1], len(drawn), -1)
    found: Floats = split.transpose(1, 0, 3, 2, 4).reshape(groups, len(images) * len(drawn), -1)
    return found.astype(np.float32)


def _pads(
    node: onnx.NodeProto, sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Zeros before and after each spatial axis."""
    automatic = attribute(node, "auto_pad", b"NOTSET")
    if automatic in {b"SAME_UPPER", b"SAME_LOWER"}:
        missing = [
            max((-(-size // step) - 1) * step + width - size, 0)
            for size, width, step in zip(sizes, reach, strides, strict=True)
        ]
        small = [total // 2 for total in missing]
        pairs = [(few, total - few) for few, total in zip(small, missing, strict=True)]
        return pairs if automatic == b"SAME_UPPER" else [(last, first) for first, last in pairs]
    pads = attribute(node, "pads", [0] * (2 * len(sizes)))
    return list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))


def _drawn(count: int, wanted: int) -> npt.NDArray[np.intp]:
    """Positions of `wanted` of `count` rows, all of them where there are fewer."""
    if count <= wanted:
        return np.arange(count)
    return np.sort(np.random.default_rng(_SEED).choice(count, wanted, replace=False))
