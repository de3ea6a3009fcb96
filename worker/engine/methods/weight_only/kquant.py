"""K-quants: scales and zero points by search and weighted least squares, without data.

After `make_qkx2_quants` and `make_qx_quants` of llama.cpp (ggml-quants.c), as ONNX Runtime's `k_quant` is.
"""

import numpy as np

from worker.engine.methods.weight_only.blocks import (
    Best,
    Blocks,
    Floats,
    Grid,
    as_blocks,
    cut,
    encode,
    extremes,
    joined,
    refit,
    slices,
    usable,
)

_STEPS = (
    np.arange(-10, 11, dtype=np.float32) / 10
)  # by which the cuts of a block's range differ from its codes
_TINY = np.finfo(np.float32).tiny


def kquant(weights: Floats, grid: Grid) -> Blocks:
    """Quantize a matrix [rows, columns].

    1. An error counts as much as its value and the root mean square of its block are large.
    2. The range of a block is cut into up to one code more or fewer; for each cut, scale and lowest value
       follow from the codes in weighted least squares.
    3. Kernels store whole zero points, so the lowest value is rounded to one and the scale follows again,
       which the sources leave out. A block keeps the best cut, or its extremes where none is better.
    """
    return joined([_portion(weights[rows], grid) for rows in slices(*weights.shape)])


def _portion(weights: Floats, grid: Grid) -> Blocks:
    blocks, real = cut(weights, grid.block_size)
    count = np.maximum(real.sum(-1, keepdims=True), 1)
    typical = np.sqrt(np.square(blocks).sum(-1, keepdims=True) / count)
    importance = (typical + abs(blocks)) * real
    best = Best(blocks, grid, importance)
    for scales, zeros in _symmetric(blocks, grid) if grid.symmetric else _free(blocks, grid, importance):
        codes = encode(blocks, scales, zeros, grid)
        best.offer(refit(blocks, codes, zeros, importance), zeros)
    codes = encode(blocks, best.scales, best.zeros, grid)
    return as_blocks(grid, weights.shape[1], codes, best.scales, best.zeros)


def _symmetric(blocks: Floats, grid: Grid) -> list[tuple[Floats, Floats]]:
    full, zeros = extremes(blocks, grid)
    return [(full * grid.middle / (grid.middle + step), zeros) for step in _STEPS]


def _free(blocks: Floats, grid: Grid, importance: Floats) -> list[tuple[Floats, Floats]]:
    low, width = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0) - np.minimum(blocks.min(-1), 0)
    found = []
    for step in _STEPS:
        cuts = usable(width / (grid.highest + step))
        codes = np.clip(np.rint((blocks - low[..., None]) / cuts[..., None]), 0, grid.highest)
        scales, lowest = _line(blocks, codes, importance)
        found.append((scales, np.clip(np.rint(-lowest / scales), 0, grid.highest)))
    return found


def _line(blocks: Floats, codes: Floats, importance: Floats) -> tuple[Floats, Floats]:
    """Scale and lowest value [...], at most 0, whose `scale * code + lowest` comes closest to blocks."""
    weight, linear, square, value, product = (
        (importance * part).sum(-1)
        for part in (np.ones_like(codes), codes, codes * codes, blocks, codes * blocks)
    )
    spread = weight * square - linear * linear
    flat = spread <= _TINY  # all codes are the same
    spread = np.where(flat, 1, spread)
    lowest = np.where(flat, 0, (square * value - linear * product) / spread)
    scales = (weight * product - linear * value) / spread
    through_zero = product / np.where(square > _TINY, square, 1)
    above = flat | (lowest > 0)
    return usable(np.where(above, through_zero, scales)), np.where(above, 0, lowest).astype(np.float32)
