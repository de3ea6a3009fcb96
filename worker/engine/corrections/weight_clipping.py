"""Weights on the grid of least squared error: clipping a few large ones makes all others finer."""

import numpy as np
from onnxruntime.quantization import QuantType

from worker.engine.choices.overrides import EIGHT_BITS
from worker.engine.choices.saturation import can_saturate
from worker.engine.choices.selection import listed
from worker.engine.corrections.subject import Corrected, Subject
from worker.engine.corrections.weights import Doubles, Grid, Weight, overrides, rows_of, weights, whole_range
from worker.engine.passes.scopes import array, initializers

_SHARES = np.linspace(1.0, 0.4, 61)[1:]  # of the whole range, which wins a tie


def weight_clipping(subject: Subject) -> Corrected:
    """Search each weight's scale, per channel or per tensor as the recipe has it.

    1. The error is the squared difference of a row to its rounded values, over 61 scales from the whole
       range down to two fifths of it.
    2. Weights whose whole range is best keep the quantizer's own scale, and so do those of all 8 bits whose
       sums can saturate only when they are narrowed.
    """
    made, kept, spared = {}, [], []
    for weight in weights(subject):
        rows = rows_of(subject.model, weight)
        grid = _closest(weight, rows)
        if grid is None:
            kept.append(weight.node.name)
        elif _saturates(subject, weight, grid):
            spared.append(weight.node.name)
        else:
            made[weight.name] = overrides(weight, grid)
    reasons = [f"weight_clipping: the ranges of {len(made)} weights were narrowed"]
    reasons += [f"weight_clipping leaves the whole range, it is the closest: {listed(kept)}"] if kept else []
    if spared:
        what = "16-bit sums of narrowed weights can saturate"
        reasons.append(f"weight_clipping leaves the whole range, for {what}: {listed(spared)}")
    return Corrected(statistics=subject.statistics, overrides=made, reasons=tuple(reasons))


def _closest(weight: Weight, rows: Doubles) -> Grid | None:
    """The grid of least error; None where that is the whole range for every row."""
    shares = np.ones((len(rows), 1))
    least = _errors(weight, rows, whole_range(weight, rows))
    for share in _SHARES:
        errors = _errors(weight, rows, whole_range(weight, rows, share))
        better = errors < least
        least, shares = np.where(better, errors, least), np.where(better, share, shares)
    return whole_range(weight, rows, shares) if (shares < 1).any() else None


def _saturates(subject: Subject, weight: Weight, grid: Grid) -> bool:
    """Whether a recipe that reduces ranges would overflow by this grid."""
    node, recipe = weight.node, subject.recipe
    if not recipe.reduce_range or subject.exceptions.activation_of(node, recipe) not in EIGHT_BITS:
        return False
    values = array(initializers(subject.model.graph)[weight.name])
    along = [-1 if axis == weight.axis else 1 for axis in range(values.ndim)]
    codes = np.rint(values / grid.scales.reshape(along))
    return weight.kind is QuantType.QInt8 and can_saturate(node, np.clip(codes, *grid.codes).astype(np.int8))


def _errors(weight: Weight, rows: Doubles, grid: Grid) -> Doubles:
    """Squared errors [rows, 1]; of the whole weight, in every row, where it has one scale."""
    errors: Doubles = np.square(rows - grid.rounded(rows)).sum(axis=1, keepdims=True)
    return errors if weight.per_channel else np.full_like(errors, errors.sum())
