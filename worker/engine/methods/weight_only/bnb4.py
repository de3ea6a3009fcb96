"""Floats of 4 bits (nf4, fp4) in blocks, as ONNX Runtime's MatMulBnb4 reads them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.engine.methods.weight_only.blocks import VALUES_AT_ONCE, Codes, Floats

# NormalFloat (Dettmers et al. 2023): quantiles of a normal distribution, by code.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
# Sign, two bits of exponent and one of mantissa, in the order of bitsandbytes; divided by the largest, 12.
_FP4 = tuple(value / 12 for value in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0))
KINDS = ("fp4", "nf4")  # by MatMulBnb4's quant_type
_SIGN = 8  # the code of a negative number is this much higher
_SHARES = np.linspace(1.0, 0.6, 9, dtype=np.float32)  # of the largest value that a scale is


@dataclass(frozen=True)
class Table:
    """Sixteen values that codes stand for, and how many weights share a scale."""

    kind: str  # nf4 or fp4
    block_size: int

    @property
    def quant_type(self) -> int:
        """MatMulBnb4's attribute."""
        return KINDS.index(self.kind)

    @property
    def values(self) -> Floats:
        """Of codes 0 to 15, the largest size being 1."""
        signed = (*_FP4, *(-value for value in _FP4))
        return np.array(_NF4 if self.kind == "nf4" else signed, np.float32)


@dataclass(frozen=True)
class TableBlocks:
    """A quantized matrix: codes [rows * columns], row by row, and scales [blocks]; blocks cross rows."""

    table: Table
    rows: int
    columns: int
    codes: Codes
    scales: Floats

    def values(self) -> Floats:
        """What the codes stand for, [rows, columns]."""
        steps = np.repeat(self.scales, self.table.block_size)[: len(self.codes)]
        return (self.table.values[self.codes] * steps).reshape(self.rows, self.columns)


def largest_values(weights: Floats, table: Table) -> TableBlocks:
    """Each value of a matrix [rows, columns] to the nearest of the table, scaled to its block's largest."""
    parts = list(_portions(weights, table.block_size))
    scales = [abs(part).max(-1) for part in parts]
    return _joined(
        weights, [_encoded(*pair, table) for pair in zip(parts, scales, strict=True)], scales, table
    )


def closest_values(weights: Floats, table: Table, importance: Floats | None = None) -> TableBlocks:
    """As `largest_values`, with the scale of the least weighted squared error found for each block.

    Shares of the largest value are tried, and the scale is refitted to the codes in least squares, as
    k-quants do for integers.

    Args:
        weights: [rows, columns].
        table: values and block size.
        importance: weights of the errors, [columns]; all equal if None.
    """
    weight = np.ones(weights.shape[1], np.float32) if importance is None else importance
    matters = np.broadcast_to(weight, weights.shape)
    pairs = zip(*(_portions(array, table.block_size) for array in (weights, matters)), strict=True)
    found = [_closest(part, table, some) for part, some in pairs]
    return _joined(weights, [codes for codes, _ in found], [scales for _, scales in found], table)


def pack_pairs(blocks: TableBlocks) -> Codes:
    """The codes as bytes [ceil(n / 2)], the first of two in the upper half; the last one beside a zero."""
    zero = np.uint8(abs(blocks.table.values).argmin())
    even = np.pad(blocks.codes, (0, len(blocks.codes) % 2), constant_values=zero).reshape(-1, 2)
    return ((even[:, 0] << 4) | even[:, 1]).astype(np.uint8)


def _closest(blocks: Floats, table: Table, importance: Floats) -> tuple[Codes, Floats]:
    full = abs(blocks).max(-1)
    best, codes = full, _encoded(blocks, full, table)
    least = _error(blocks, codes, full, table, importance)
    for share in _SHARES:
        scales = _refitted(blocks, _encoded(blocks, full * share, table), full, table, importance)
        tried = _encoded(blocks, scales, table)
        error = _error(blocks, tried, scales, table, importance)
        better = error < least
        least, best = np.where(better, error, least), np.where(better, scales, best)
        codes = np.where(better[:, None], tried, codes)
    return codes, best


def _refitted(blocks: Floats, codes: Codes, full: Floats, table: Table, importance: Floats) -> Floats:
    values = table.values[codes]
    product, square = (importance * values * blocks).sum(-1), (importance * values * values).sum(-1)
    return np.where(product > 0, product / np.where(square > 0, square, 1), full).astype(np.float32)


def _error(blocks: Floats, codes: Codes, scales: Floats, table: Table, importance: Floats) -> Floats:
    errors = blocks - table.values[codes] * scales[:, None]
    total: Floats = (importance * errors * errors).sum(-1)
    return total


def _encoded(blocks: Floats, scales: Floats, table: Table) -> Codes:
    """The nearest codes of blocks [n, block_size]; ties go to the lower value (nf4) or size (fp4)."""
    inverse = np.where(scales > 0, 1 / np.where(scales > 0, scales, 1), 0).astype(np.float32)
    scaled = blocks * inverse[:, None]
    if table.kind == "nf4":
        return _nearest(scaled, table.values).astype(np.uint8)
    order = np.argsort(table.values[:_SIGN], kind="stable").astype(np.uint8)
    sizes = order[_nearest(abs(scaled), table.values[order])]
    return np.where(scaled < 0, sizes + np.uint8(_SIGN), sizes)


def _nearest(values: Floats, rising: Floats) -> npt.NDArray[np.intp]:
    exact = rising.astype(np.float64)
    return np.searchsorted(((exact[1:] + exact[:-1]) / 2).astype(np.float32), values, side="left")


def _portions(matrix: Floats, block_size: int) -> Iterator[Floats]:
    """Blocks [n, block_size] of the flattened matrix; the last is filled up with zeros."""
    flat = matrix.reshape(-1)
    step = max(1, VALUES_AT_ONCE // block_size) * block_size
    for start in range(0, len(flat), step):
        part = flat[start : start + step]
        yield np.pad(part, (0, -len(part) % block_size)).reshape(-1, block_size)


def _joined(weights: Floats, codes: list[Codes], scales: list[Floats], table: Table) -> TableBlocks:
    flat = np.concatenate([part.reshape(-1) for part in codes])[: weights.size]
    rows, columns = weights.shape
    return TableBlocks(table, rows, columns, flat, np.concatenate(scales))
