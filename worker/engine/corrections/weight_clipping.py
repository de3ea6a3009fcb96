"""Weights on the grid of least squared error: clipping a few large ones makes all others finer."""

import numpy as np

from worker.engine.choices.selection import listed
from worker.engine.corrections.subject import Corrected, Subject
from worker.engine.corrections.weights import Doubles, Grid, Weight, overrides, rows_of, weights, whole_range

_SHARES = np.linspace(1.0, 0.4, 61)[1:]  # of the whole range, which wins a tie


def weight_clipping(subject: Subject) -> Corrected:
    """Search each weight's scale, per channel or per tensor as the recipe has it.

    1. The error is the squared difference of a row to its rounded values, over 61 scales from the whole
       range down to two fifths of it.
    2. Weights whose whole range is best keep the quantizer's own scale.
    """
    made, kept = {}, []
    for weight in weights(subject):
        rows = rows_of(subject.model, weight)
        grid = _closest(weight, rows)
        if grid is None:
            kept.append(weight.node.name)
        else:
            made[weight.name] = overrides(weight, grid)
    reasons = [f"weight_clipping: the ranges of {len(made)} weights were narrowed"]
    reasons += [f"weight_clipping leaves the whole range, it is the closest: {listed(kept)}"] if kept else []
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


def _errors(weight: Weight, rows: Doubles, grid: Grid) -> Doubles:
    """Squared errors [rows, 1]; of the whole weight, in every row, where it has one scale."""
    errors: Doubles = np.square(rows - grid.rounded(rows)).sum(axis=1, keepdims=True)
    return errors if weight.per_channel else np.full_like(errors, errors.sum())
