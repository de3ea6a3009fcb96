"""AdaRound (Nagel et al. 2020) in blocks: on GPTQ's grids, whether weights go up or down is learned."""

import numpy as np
import numpy.typing as npt

from worker.engine.corrections.columns import Doubles
from worker.engine.corrections.relaxation import Between, Slope, settle_shares
from worker.engine.corrections.roots import damped
from worker.engine.methods.weight_only.blocks import Blocks, Floats, Grid, as_blocks, cut
from worker.engine.methods.weight_only.gptq import Sums, gptq, refitted

_STEPS = 500
_WORK = 4_000_000_000_000  # multiplications of one descent
_TINY = 1e-30


def adaround(weights: Floats, learned: Sums, held_out: Sums, grid: Grid) -> Blocks:
    """Quantize a matrix by `gptq`, then learn on its grids which of two neighbours each weight takes.

    1. As `gptq` it aims at the weights that serve best behind the layers quantized before, and refits scales.
    2. Each row keeps what changes its products with the samples held out less.

    Args:
        weights: [rows, columns]; the layer computes `x @ weights.T`.
        learned: sums of its inputs, over the samples to learn from.
        held_out: the same over the others.
        grid: bits, block size, symmetry.
    """
    both = Sums(learned.square + held_out.square, learned.cross + held_out.cross)
    start = gptq(weights, both, grid)
    if weights.size * weights.shape[1] * _STEPS > _WORK:
        return start
    regular = damped(learned.square)
    aim = weights.astype(np.float64) @ (learned.cross + regular - learned.square) @ np.linalg.inv(regular)
    between = _between(start, aim)
    shares = settle_shares(between, _slope(between, aim, regular), _STEPS)
    found = _on_grid(start, between.at(shares), aim, regular)
    better = _lost(found, weights, held_out) < _lost(start, weights, held_out)
    codes, scales, zeros = (
        np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        for new, old in ((found.codes, start.codes), (found.scales, start.scales), (found.zeros, start.zeros))
    )
    return Blocks(grid, start.columns, codes, scales, zeros)


def _spread(start: Blocks, of_blocks: npt.NDArray[np.generic]) -> Floats:
    """What each block has, for each of its columns."""
    return np.repeat(of_blocks, start.grid.block_size, axis=1)[:, : start.columns].astype(np.float32)


def _between(start: Blocks, aim: Doubles) -> Between:
    scales, zeros = _spread(start, start.scales), _spread(start, start.zeros)
    exact = aim.astype(np.float32) / scales + zeros
    below = np.clip(np.floor(exact), start.grid.lowest, start.grid.highest - 1)
    return Between((below - zeros) * scales, scales, np.clip(exact - below, 0, 1))


def _slope(between: Between, aim: Doubles, square: Doubles) -> Slope:
    """Of the error of the products, which is 1 for each row when it is rounded to nearest."""
    wrong = between.at(np.rint(between.shares)) - aim
    units = (np.einsum("rk,rk->r", wrong @ square, wrong)[:, None] + _TINY).astype(np.float32)
    slim, wanted = square.astype(np.float32), (aim @ square).astype(np.float32)

    def found(values: Floats) -> Floats:
        return np.asarray(2 * (values @ slim - wanted) / units, np.float32)

    return found


def _on_grid(start: Blocks, values: Floats, aim: Doubles, square: Doubles) -> Blocks:
    """The codes of values on the grid, with scales refitted to them."""
    codes = np.rint(values / _spread(start, start.scales) + _spread(start, start.zeros))
    blocks, real = cut(codes.astype(np.float32), start.grid.block_size)
    zeros = start.zeros.astype(np.float32)
    scales = refitted(aim, (blocks - zeros[..., None]) * real, square)
    return as_blocks(start.grid, start.columns, blocks, scales, zeros)


def _lost(blocks: Blocks, weights: Floats, sums: Sums) -> Doubles:
    """How far products are from those of the float layer, [rows]; a constant of each row is left out."""
    values = blocks.values().astype(np.float64)
    lost: Doubles = np.einsum("rk,rk->r", values @ sums.square - 2 * weights @ sums.cross, values)
    return lost
