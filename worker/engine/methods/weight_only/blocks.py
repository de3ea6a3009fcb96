"""Weights in blocks of few bits, as the runtime's kernels read them.

A matrix of [rows, columns] is cut along its rows' columns into blocks; a value is `scale * (code - zero)`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
BYTE = 8  # bits
_SHARES = np.linspace(1.05, 0.5, 9, dtype=np.float32)  # of a block's range that a grid covers
_TURNS = 2
_LARGE = np.float32(0.7)  # times the mean size of normally distributed values: the rest becomes zero
VALUES_AT_ONCE = 1 << 20  # so that temporary arrays stay in tens of megabytes


@dataclass(frozen=True)
class Grid:
    """How many bits a code has, how many values share a scale, and whether zero points are free.

    A ternary grid uses the codes of -1, 0 and 1 alone; it is symmetric.
    """

    bits: int
    block_size: int
    symmetric: bool
    ternary: bool = False

    @property
    def lowest(self) -> int:
        """The smallest code."""
        return self.middle - 1 if self.ternary else 0

    @property
    def highest(self) -> int:
        """The largest code."""
        return self.middle + 1 if self.ternary else (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point that kernels assume where none is stored."""
        return 1 << (self.bits - 1)

    def bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix: codes, float32 scales and packed zero points."""
        blocks = -(-columns // self.block_size)
        zeros = 0 if self.symmetric else -(-blocks * self.bits // BYTE)
        return rows * (blocks * self.block_size * self.bits // BYTE + 4 * blocks + zeros)


@dataclass(frozen=True)
class Blocks:
    """A quantized matrix: codes [rows, blocks, block_size], scales and zeros [rows, blocks]."""

    grid: Grid
    columns: int
    codes: Codes
    scales: Floats
    zeros: Codes

    def values(self) -> Floats:
        """What the codes stand for, [rows, columns]."""
        centred = self.codes.astype(np.float32) - self.zeros[..., None]
        values: Floats = (centred * self.scales[..., None]).reshape(len(self.codes), -1)
        return values[:, : self.columns]


def cut(weights: Floats, block_size: int) -> tuple[Floats, Floats]:
    """Blocks [rows, blocks, block_size] of a matrix [rows, columns], and which of their values are real.

    The last block is filled up with zeros; `real` is 1 for values and 0 for filling, [blocks, block_size].
    """
    rows, columns = weights.shape
    missing = -columns % block_size
    real = np.pad(np.ones(columns, np.float32), (0, missing)).reshape(-1, block_size)
    return np.pad(weights, ((0, 0), (0, missing))).reshape(rows, -1, block_size), real


def extremes(blocks: Floats, grid: Grid) -> tuple[Floats, Floats]:
    """Scales and zeros [...] that reach the extreme values of blocks [..., block_size].

    Symmetric grids have one code more below zero than above: it gets the value of the largest magnitude.
    Ternary ones reach the mean of the large values ("ternary weight networks", Li et al. 2016).
    """
    if grid.ternary:
        scales = _mean_of_large(blocks)
        return scales, np.full_like(scales, grid.middle)
    if grid.symmetric:
        largest = np.take_along_axis(blocks, abs(blocks).argmax(-1)[..., None], -1)[..., 0]
        scales = usable(-largest / np.float32(grid.middle))
        return scales, np.full_like(scales, grid.middle)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scales = usable((high - low) / np.float32(grid.highest))
    return scales, np.clip(np.rint(-low / scales), 0, grid.highest)


def _mean_of_large(blocks: Floats) -> Floats:
    """The mean size [...] of those values that are above seven tenths of the mean size."""
    sizes = abs(blocks)
    large = sizes > _LARGE * sizes.mean(-1, keepdims=True)
    return usable((sizes * large).sum(-1) / np.maximum(large.sum(-1), 1))


def encode(blocks: Floats, scales: Floats, zeros: Floats, grid: Grid) -> Floats:
    """The nearest codes [..., block_size], as floats."""
    nearest = np.rint(blocks / scales[..., None] + zeros[..., None])
    codes: Floats = np.clip(nearest, grid.lowest, grid.highest)
    return codes


def refit(blocks: Floats, codes: Floats, zeros: Floats, importance: Floats) -> Floats:
    """The scales that bring codes closest to blocks in weighted least squares, in closed form."""
    centred = codes - zeros[..., None]
    product, square = (importance * centred * blocks).sum(-1), (importance * centred * centred).sum(-1)
    return usable(np.divide(product, square, out=np.zeros_like(product), where=square > 0))


def closest(blocks: Floats, grid: Grid, importance: Floats) -> tuple[Floats, Floats]:
    """Scales and zeros [...] of the least weighted squared error found.

    Grids over several shares of a block's range are tried, each with its zeros and scales refitted to its
    codes by turns.

    Args:
        blocks: values, [..., block_size].
        grid: bits and symmetry.
        importance: weights of the errors, broadcast to `blocks`.
    """
    full, start = extremes(blocks, grid)
    best = Best(blocks, grid, importance)
    for share in _SHARES:
        scales, zeros = full * share, start
        for _ in range(_TURNS):
            codes = encode(blocks, scales, zeros, grid)
            zeros = recentred(blocks, codes, scales, grid, importance)
            scales = refit(blocks, encode(blocks, scales, zeros, grid), zeros, importance)
            best.offer(scales, zeros)
    return best.scales, best.zeros


class Best:
    """The scales and zeros, block by block, of the least weighted squared error offered so far."""

    def __init__(self, blocks: Floats, grid: Grid, importance: Floats) -> None:
        self._blocks, self._grid, self._importance = blocks, grid, importance
        self.scales, self.zeros = extremes(blocks, grid)
        self._errors = self._measure(self.scales, self.zeros)

    def offer(self, scales: Floats, zeros: Floats) -> None:
        """Take these where they are better."""
        errors = self._measure(scales, zeros)
        better = errors < self._errors
        self._errors = np.where(better, errors, self._errors)
        self.scales = np.where(better, scales, self.scales)
        self.zeros = np.where(better, zeros, self.zeros)

    def _measure(self, scales: Floats, zeros: Floats) -> Floats:
        codes = encode(self._blocks, scales, zeros, self._grid)
        errors = self._blocks - scales[..., None] * (codes - zeros[..., None])
        total: Floats = (self._importance * errors * errors).sum(-1)
        return total


def recentred(blocks: Floats, codes: Floats, scales: Floats, grid: Grid, importance: Floats) -> Floats:
    """Zeros [...] that bring codes closest to blocks at these scales: whole, and if symmetric the middle."""
    if grid.symmetric:
        return np.full_like(scales, grid.middle)
    weights = np.broadcast_to(importance, blocks.shape)
    offsets = (weights * (codes - blocks / scales[..., None])).sum(-1) / usable(weights.sum(-1))
    zeros: Floats = np.clip(np.rint(offsets), 0, grid.highest)
    return zeros


def round_to_nearest(weights: Floats, grid: Grid) -> Blocks:
    """Each value to the nearest code of a grid over its block's range."""
    blocks, _ = cut(weights, grid.block_size)
    scales, zeros = extremes(blocks, grid)
    return as_blocks(grid, weights.shape[1], encode(blocks, scales, zeros, grid), scales, zeros)


def as_blocks(grid: Grid, columns: int, codes: Floats, scales: Floats, zeros: Floats) -> Blocks:
    """Codes and zeros as bytes."""
    return Blocks(grid, columns, codes.astype(np.uint8), scales.astype(np.float32), zeros.astype(np.uint8))


def slices(rows: int, columns: int) -> list[slice]:
    """Rows in portions whose temporary arrays are small."""
    step = max(1, VALUES_AT_ONCE // max(columns, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]


def joined(parts: list[Blocks]) -> Blocks:
    """Portions of rows as one matrix."""
    arrays = (np.concatenate([getattr(p, name) for p in parts]) for name in ("codes", "scales", "zeros"))
    return Blocks(parts[0].grid, parts[0].columns, *arrays)


def pack(codes: npt.NDArray[Any], bits: int) -> Codes:
    """Codes [..., n] as bytes [..., ceil(n * bits / 8)], the first code in the lowest bits."""
    per_byte = BYTE // bits
    missing = -codes.shape[-1] % per_byte
    padded = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, missing)]).astype(np.uint8)
    grouped = padded.reshape(*codes.shape[:-1], -1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    packed: Codes = np.bitwise_or.reduce(grouped << shifts, axis=-1)
    return packed


def usable(scales: npt.NDArray[Any]) -> Floats:
    """Blocks of zeros alone have a scale of 1, since kernels divide by it."""
    return np.where(abs(scales) > np.finfo(np.float32).tiny, scales, np.float32(1)).astype(np.float32)
