"""GPTQ (Frantar et al. 2022): columns are rounded one by one, and the next make up for the error."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.engine.methods.weight_only.blocks import (
    Blocks,
    Floats,
    Grid,
    as_blocks,
    closest,
    cut,
    slices,
)

Doubles = npt.NDArray[np.float64]
_DAMPING = 0.01  # of the mean diagonal, added to the diagonal
_COLUMNS_AT_ONCE = 128  # errors reach the columns beyond in one product
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Sums:
    """What the calibration samples say about the inputs of a layer, [columns, columns].

    `square` is the sum of `x.T @ x` over its inputs as they are behind the layers quantized before, `cross`
    the sum of `f.T @ x` with its inputs `f` in the float model.
    """

    square: Doubles
    cross: Doubles


def gptq(weights: Floats, sums: Sums, grid: Grid) -> Blocks:
    """Quantize a matrix so that its products with the calibration samples change least.

    1. It aims at the weights that serve best on the inputs as they are now ("asymmetric calibration",
       Li et al. 2025): they also make up for the errors of the layers before.
    2. Columns go in the order of their importance ("act-order"), each on the grid that its block got from the
       weights as they were ("static groups"): kernels want the columns of a block side by side.
    3. Scales are refitted to the codes.

    Args:
        weights: [rows, columns]; the layer computes `x @ weights.T`.
        sums: of its inputs.
        grid: bits, block size, symmetry.
    """
    regular = damped(sums.square)
    inverse = _inverted(regular)
    aim = weights.astype(np.float64) @ (sums.cross + regular - sums.square) @ inverse
    blocks, real = cut(aim.astype(np.float32), grid.block_size)
    importance, _ = cut(np.diag(regular)[None].astype(np.float32), grid.block_size)
    scales, zeros = closest(blocks, grid, importance[0] * real)
    order = np.argsort(-np.diag(regular), kind="stable")
    groups = order // grid.block_size
    columns = Columns(
        scales.T.astype(np.float64)[groups],
        zeros.T.astype(np.float64)[groups],
        _upper_root(inverse[np.ix_(order, order)]),
        grid.highest,
    )
    rounded = np.zeros((weights.shape[1], len(weights)), np.float32)
    rounded[order] = round_columns(aim.T[order], columns)
    codes, _ = cut(np.ascontiguousarray(rounded.T), grid.block_size)
    centred = (codes - zeros[..., None]) * real
    return as_blocks(grid, weights.shape[1], codes, _refitted(aim, centred, regular), zeros)


def damped(hessian: Doubles) -> Doubles:
    """A matrix that can be inverted: a hundredth of the mean diagonal is added to the diagonal."""
    return hessian + np.eye(len(hessian)) * max(_DAMPING * float(np.diag(hessian).mean()), _TINY)


@dataclass(frozen=True)
class Columns:
    """The columns in the order of rounding: scales and zeros [columns, rows], and how errors spread."""

    scales: Doubles
    zeros: Doubles
    spread: Doubles  # [columns, columns], upper triangular
    highest: int


def round_columns(weights: Doubles, columns: Columns) -> Doubles:
    """Codes [columns, rows] of weights [columns, rows], which are changed on the way."""
    codes = np.zeros_like(weights)
    for start in range(0, len(weights), _COLUMNS_AT_ONCE):
        part = range(start, min(start + _COLUMNS_AT_ONCE, len(weights)))
        errors = _round_part(weights, codes, columns, part)
        weights[part.stop :] -= columns.spread[start : part.stop, part.stop :].T @ errors
    return codes


def _round_part(weights: Doubles, codes: Doubles, columns: Columns, part: Sequence[int]) -> Doubles:
    errors = np.zeros((len(part), weights.shape[1]))
    for position, i in enumerate(part):
        scales, zeros = columns.scales[i], columns.zeros[i]
        codes[i] = np.clip(np.rint(weights[i] / scales + zeros), 0, columns.highest)
        errors[position] = (weights[i] - scales * (codes[i] - zeros)) / columns.spread[i, i]
        rest = slice(i + 1, part[-1] + 1)
        weights[rest] -= columns.spread[i, rest, None] * errors[position]
    return errors


def _refitted(weights: Doubles, codes: Floats, hessian: Doubles) -> Floats:
    """The scales [rows, blocks] that serve the products best, given the codes: least squares, row by row.

    On MiniLM this wins 0.3 dB at 2 bits.

    Args:
        weights: [rows, columns].
        codes: centred at zero, [rows, blocks, block_size]; 0 where a block is filled up.
        hessian: [columns, columns], positive definite.
    """
    rows, blocks, size = codes.shape
    missing = blocks * size - len(hessian)
    padded = np.pad(hessian, (0, missing))
    scales = np.empty((rows, blocks), np.float32)
    for part in slices(rows, blocks * size):
        mine = codes[part].astype(np.float64)
        wanted = np.pad(weights[part] @ hessian, ((0, 0), (0, missing))).reshape(mine.shape) * mine
        system = np.empty((len(mine), blocks, blocks))
        for block in range(blocks):
            reach = mine[:, block] @ padded[block * size : (block + 1) * size]
            system[:, block] = np.einsum("rgb,rgb->rg", reach.reshape(mine.shape), mine)
        idle = np.trace(system, axis1=1, axis2=2)[:, None, None] * 1e-9 + _TINY  # blocks of zeros alone
        found = np.linalg.solve(system + np.eye(blocks) * idle, wanted.sum(-1)[..., None])
        scales[part] = found[..., 0]
    return scales


def inverse_root(hessian: Doubles) -> Doubles:
    """The upper Cholesky factor of the inverse."""
    return _upper_root(_inverted(hessian))


def _inverted(hessian: Doubles) -> Doubles:
    """The inverse, [columns, columns]."""
    inverse: Doubles = np.asarray(np.linalg.inv(hessian), np.float64)
    return inverse


def _upper_root(matrix: Doubles) -> Doubles:
    """The upper Cholesky factor."""
    root: Doubles = np.asarray(np.linalg.cholesky(matrix).T, np.float64)
    return root
