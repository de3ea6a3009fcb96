"""Half-quadratic quantization (Badri and Shaji 2023): from weights alone, without data."""

import numpy as np

from worker.engine.methods.weight_only.blocks import (
    Best,
    Blocks,
    Floats,
    Grid,
    as_blocks,
    closest,
    cut,
    encode,
    joined,
    recentred,
    refit,
    slices,
)

_NORM = 0.7
_BETA, _BETA_GROWTH = 10.0, 1.01
_TURNS = 10


def half_quadratic(weights: Floats, grid: Grid) -> Blocks:
    """Quantize a matrix [rows, columns].

    The error is measured by an l_p norm with p = 0.7, which forgives a block its outliers. It is minimized by
    turns: the errors are shrunk, then zeros and scales are set in closed form. The paper's zeros are real
    numbers and its scales fixed; kernels store whole zeros, so they are rounded and the scales follow.
    It starts from the grid of the least squared error, and a block keeps its best turn.
    """
    return joined([_portion(weights[rows], grid) for rows in slices(*weights.shape)])


def _portion(weights: Floats, grid: Grid) -> Blocks:
    blocks, real = cut(weights, grid.block_size)
    scales, zeros = closest(blocks, grid, real)
    best = Best(blocks, grid, real)
    best.offer(scales, zeros)
    for turn in range(_TURNS):
        codes = encode(blocks, scales, zeros, grid)
        error = blocks - scales[..., None] * (codes - zeros[..., None])
        target = blocks - _shrunk(error, _BETA * _BETA_GROWTH**turn)
        zeros = recentred(target, codes, scales, grid, real)
        scales = refit(target, codes, zeros, real)
        best.offer(scales, zeros)
    codes = encode(blocks, best.scales, best.zeros, grid)
    return as_blocks(grid, weights.shape[1], codes, best.scales, best.zeros)


def _shrunk(error: Floats, beta: float) -> Floats:
    """The generalized soft threshold of the l_p norm."""
    size = abs(error)
    threshold = np.power(size + np.float32(1e-8), _NORM - 1) / np.float32(beta)
    shrunk: Floats = np.sign(error) * np.maximum(size - threshold, 0).astype(np.float32)
    return shrunk
