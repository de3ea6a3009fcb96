"""Columns of a matrix rounded one after another, each with regard to what the others lack."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
_AT_ONCE = 128  # errors reach the columns beyond in one product


@dataclass(frozen=True)
class Columns:
    """The grids of columns in the order of rounding: scales and zeros, [columns, rows]."""

    scales: Doubles
    zeros: Doubles
    highest: int
    lowest: int = 0


def round_columns(weights: Doubles, columns: Columns, spread: Doubles) -> Doubles:
    """Codes [columns, rows]; each column's error moves into the columns after it (OBQ).

    Args:
        weights: [columns, rows].
        columns: their grids.
        spread: the upper Cholesky factor of the inverse Hessian, [columns, columns].
    """
    left, codes = weights.copy(), np.zeros_like(weights)
    for part in _parts(len(weights)):
        errors = _round_part(left, codes, columns, spread, part)
        left[part.stop :] -= spread[part.start : part.stop, part.stop :].T @ errors
    return codes


def _parts(count: int) -> Sequence[range]:
    return [range(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE)]


def _round_part(
    left: Doubles, codes: Doubles, columns: Columns, spread: Doubles, part: Sequence[int]
) -> Doubles:
    errors = np.zeros((len(part), left.shape[1]))
    for position, i in enumerate(part):
        scales, zeros = columns.scales[i], columns.zeros[i]
        codes[i] = np.clip(np.rint(left[i] / scales + zeros), columns.lowest, columns.highest)
        errors[position] = (left[i] - scales * (codes[i] - zeros)) / spread[i, i]
        rest = slice(i + 1, part[-1] + 1)
        left[rest] -= spread[i, rest, None] * errors[position]
    return errors


def descended(codes: Doubles, weights: Doubles, columns: Columns, hessian: Doubles) -> Doubles:
    """Better codes [columns, rows]: each column once more, all others as they are (coordinate descent).

    Args:
        codes: of all columns, [columns, rows].
        weights: that they stand for, [columns, rows].
        columns: their grids; scales are not zero.
        hessian: of the products, [columns, columns].
    """
    better = codes.copy()
    pull = hessian @ (weights - columns.scales * (codes - columns.zeros))
    for part in _parts(len(codes)):
        moved = _descend_part(better, pull, columns, hessian, part)
        pull[part.stop :] -= hessian[part.stop :, part.start : part.stop] @ moved
    return better


def _descend_part(
    codes: Doubles, pull: Doubles, columns: Columns, hessian: Doubles, part: Sequence[int]
) -> Doubles:
    moved = np.zeros((len(part), codes.shape[1]))
    for position, i in enumerate(part):
        best = np.rint(codes[i] + pull[i] / (hessian[i, i] * columns.scales[i]))
        best = np.clip(best, columns.lowest, columns.highest)
        moved[position] = columns.scales[i] * (best - codes[i])
        codes[i] = best
        rest = slice(i + 1, part[-1] + 1)
        pull[rest] -= hessian[rest, i, None] * moved[position]
    return moved
