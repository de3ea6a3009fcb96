"""From a detector's output to boxes with a class and a score, as a job's `decoding` declares them."""

from dataclasses import dataclass

import numpy as np

from app.domain.detection import Decoding
from app.domain.errors import FieldError, Refused
from worker.engine.data.dataset import Array

BOX = 4
MOST_BEFORE = 1000  # boxes of one image that overlaps are looked at between; the best ones
FARTHEST = 1e6  # pixels, so that no area overflows


@dataclass(frozen=True)
class Detections:
    """Boxes of one image, the best first."""

    boxes: Array  # [n, 4] float64: left, top, right, bottom in pixels of the input
    classes: Array  # [n] int64
    scores: Array  # [n] float64


def detections(output: Array, decoding: Decoding, *, logits: bool) -> Detections:
    """Decode one image's output, leave out weak boxes, and suppress those that overlap better ones.

    Args:
        output: [boxes, 4 + objectness + background + classes] behind any number of unit axes, or transposed.
        decoding: with its `size`.
        logits: whether scores still need a sigmoid, or a softmax where one is for the background.

    Raises:
        Refused: `metric_mismatch`, the output has another shape than declared.
    """
    rows = _rows(output, decoding)
    scores = _scores(rows[:, BOX:], decoding, logits=logits)
    classes, best = scores.argmax(1), scores.max(1)
    order = np.argsort(-best, kind="stable")
    order = order[best[order] >= decoding.min_score][:MOST_BEFORE]
    boxes = _corners(rows[:, :BOX], decoding)[order]
    kept = suppress(boxes, classes[order], decoding.nms_iou)
    return Detections(boxes[kept], classes[order][kept], best[order][kept])


def class_count(output: Array, decoding: Decoding) -> int:
    """How many classes a detector tells apart."""
    return int(_rows(output, decoding).shape[1]) - _before_classes(decoding)


def joined(boxes: Array, scores: Array, decoding: Decoding) -> Array:
    """One output of two: the boxes' four numbers and their scores, [boxes, 4 + scores], or transposed.

    Raises:
        Refused: `metric_mismatch`, they are not of the same boxes.
    """
    parts = [_matrix(part) for part in (boxes, scores)]
    along = 1 if decoding.transposed else 0
    if parts[0].shape[along] != parts[1].shape[along] or parts[0].shape[1 - along] != BOX:
        detail = (
            f"the boxes have the shape {list(boxes.shape)}, their scores {list(scores.shape)}; "
            f"boxes need four numbers each, and as many rows of scores"
        )
        raise mismatch(detail)
    return np.concatenate(parts, axis=1 - along)


def suppress(boxes: Array, classes: Array, iou: float) -> list[int]:
    """Which boxes overlap no better one of their class by more than `iou`; the best come first."""
    clash = (overlaps(boxes, boxes) > iou) & (classes[:, None] == classes)
    free = np.ones(len(boxes), bool)
    kept = []
    for place in range(len(boxes)):
        if free[place]:
            kept.append(place)
            free &= ~clash[place]
    return kept


def overlaps(found: Array, wanted: Array, crowd: Array | None = None) -> Array:
    """Intersection over union, [found, wanted]; over the area found alone where `wanted` is a crowd.

    Args:
        found: [f, 4] corners.
        wanted: [w, 4] corners.
        crowd: [w] bool.
    """
    low = np.maximum(found[:, None, :2], wanted[None, :, :2])
    high = np.minimum(found[:, None, 2:], wanted[None, :, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=2)
    mine, other = _area(found)[:, None], _area(wanted)[None]
    whole = mine + other - both
    if crowd is not None:
        whole = np.where(crowd, mine, whole)
    return np.asarray(np.divide(both, whole, out=np.zeros_like(both), where=whole > 0))


def _area(boxes: Array) -> Array:
    area: Array = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return area


def _before_classes(decoding: Decoding) -> int:
    """Numbers of a row that are no class's score."""
    return BOX + decoding.objectness + (decoding.background is not None)


def _matrix(output: Array) -> Array:
    """The last two axes; the others are 1."""
    axes = output.shape[-2:]
    if len(axes) < 2 or output.size != np.prod(axes):  # noqa: PLR2004 - boxes, numbers
        raise mismatch(f"the output has the shape {list(output.shape)}; it needs a row for each box")
    return output.reshape(axes).astype(np.float64)


def _rows(output: Array, decoding: Decoding) -> Array:
    matrix = _matrix(output)
    rows = matrix.T if decoding.transposed else matrix
    least = _before_classes(decoding) + 1
    if rows.shape[1] < least:
        detail = f"the output has the shape {list(output.shape)}; boxes need rows of at least {least} numbers"
        raise mismatch(detail)
    return rows


def _scores(numbers: Array, decoding: Decoding, *, logits: bool) -> Array:
    if logits:
        numbers = _softmax(numbers) if decoding.background else 1 / (1 + np.exp(-np.clip(numbers, -500, 500)))
    if decoding.background:
        return numbers[:, 1:] if decoding.background == "first" else numbers[:, :-1]
    return numbers[:, :1] * numbers[:, 1:] if decoding.objectness else numbers


def _softmax(numbers: Array) -> Array:
    powers = np.exp(numbers - numbers.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _corners(numbers: Array, decoding: Decoding) -> Array:
    assert decoding.size is not None  # noqa: S101 - settled with the question
    first, second = numbers[:, :2], numbers[:, 2:]
    if decoding.strides:
        cells, stride = _grid(decoding.strides, decoding.size, len(numbers))
        first, second = (first + cells) * stride, np.exp(np.minimum(second, 50)) * stride
    if decoding.boxes == "cxcywh":
        first, second = first - second / 2, first + second / 2
    elif decoding.boxes == "xywh":
        second = first + second
    corners = np.concatenate([first, second], axis=1)
    if decoding.normalized:
        corners *= np.tile(decoding.size[::-1], 2)
    return np.asarray(np.clip(corners, -FARTHEST, FARTHEST))


def _grid(strides: tuple[int, ...], size: tuple[int, int], rows: int) -> tuple[Array, Array]:
    """The cell, [rows, 2] as x and y, and the stride, [rows, 1], of each row."""
    counts = [(size[0] // stride, size[1] // stride) for stride in strides]
    cells = [np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).reshape(-1, 2) for h, w in counts]
    if sum(map(len, cells)) != rows:
        detail = (
            f"the output has {rows} rows, but grids of the strides {list(strides)} over "
            f"{size[0]} x {size[1]} pixels have {sum(map(len, cells))} cells"
        )
        raise mismatch(detail)
    each = np.repeat(np.asarray(strides, np.float64), [len(found) for found in cells])
    return np.concatenate(cells).astype(np.float64), each[:, None]


def mismatch(detail: str) -> Refused:
    """The refusal of an output that is not as declared."""
    return Refused("metric_mismatch", detail, errors=(FieldError("/evaluation/decoding", detail),))
