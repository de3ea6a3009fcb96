"""GPTQ (Frantar et al. 2022): columns are rounded one by one, and the next make up for the error."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.engine.corrections.columns import Columns, Doubles, descended, round_columns
from worker.engine.corrections.roots import damped, inverted, upper_root
from worker.engine.methods.weight_only.blocks import (
    Blocks,
    Floats,
    Grid,
    as_blocks,
    closest,
    cut,
    slices,
    usable,
)

_TURNS = 2
_TINY = float(np.finfo(np.float32).tiny)
Order = npt.NDArray[np.intp]


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
    3. By turns, scales are refitted to the codes, and codes to the scales by coordinate descent ("QuantEase",
       Behdin et al. 2023).

    Args:
        weights: [rows, columns]; the layer computes `x @ weights.T`.
        sums: of its inputs.
        grid: bits, block size, symmetry.
    """
    regular = damped(sums.square)
    inverse = inverted(regular)
    aim = weights.astype(np.float64) @ (sums.cross + regular - sums.square) @ inverse
    blocks, real = cut(aim.astype(np.float32), grid.block_size)
    importance, _ = cut(np.diag(regular)[None].astype(np.float32), grid.block_size)
    scales, zeros = closest(blocks, grid, importance[0] * real)
    order = np.argsort(-np.diag(regular), kind="stable")
    grids, ordered = _grids(scales, zeros, order, grid), np.ix_(order, order)
    rounded = round_columns(aim.T[order], grids, upper_root(inverse[ordered]))
    for _ in range(_TURNS):
        scales = refitted(aim, (_in_blocks(rounded, order, grid) - zeros[..., None]) * real, regular)
        grids = _grids(scales, zeros, order, grid)
        rounded = descended(rounded, aim.T[order], grids, regular[ordered])
    codes = _in_blocks(rounded, order, grid)
    scales = refitted(aim, (codes - zeros[..., None]) * real, regular)
    return as_blocks(grid, weights.shape[1], codes, scales, zeros)


def _grids(scales: Floats, zeros: Floats, order: Order, grid: Grid) -> Columns:
    blocks = order // grid.block_size
    scale, zero = (part.T.astype(np.float64)[blocks] for part in (scales, zeros))
    return Columns(scale, zero, grid.highest, grid.lowest)


def _in_blocks(rounded: Doubles, order: Order, grid: Grid) -> Floats:
    """Codes [columns, rows] in the order of rounding as [rows, blocks, block_size]."""
    codes = np.empty(rounded.shape, np.float32)
    codes[order] = rounded
    return cut(np.ascontiguousarray(codes.T), grid.block_size)[0]


def refitted(weights: Doubles, codes: Floats, hessian: Doubles) -> Floats:
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
    scales = np.empty((rows, blocks))
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
    return usable(scales)
