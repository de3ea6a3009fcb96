"""Signed histograms over ±2^k: the range doubles by merging pairs of bins, so partial ones add up exactly."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BINS = 8192  # one-sided values that just pass a power of two still fill 2048
SAMPLED = 32_768  # values per tensor and sample
LEAST_EXPONENT = -100  # 2^12 / 2^k stays a finite float32
_MIDDLE = BINS // 2
_DOUBLINGS = BINS.bit_length() - 1  # after so many, each half is one bin
_EXACT_IN_SINGLE = 12  # up to here bins are at most 1 wide: scaling a float32 then never underflows
_SEED = 20_261_121


@dataclass(frozen=True, eq=False)
class Histogram:
    """How values are spread: `counts[i]` of them in [i − 4096, i − 4095) · 2^exponent / 4096.

    `zeros` of those in bin 4096 are exactly zero: quantizing loses nothing of them.
    """

    exponent: int
    counts: Array  # int64 [BINS]
    zeros: int

    def __eq__(self, other: object) -> bool:
        """Whether every count is the same."""
        if not isinstance(other, Histogram):
            return NotImplemented
        same = self.exponent == other.exponent and self.zeros == other.zeros
        return same and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    @property
    def edges(self) -> Array:
        """The limits of the bins, float64 [BINS + 1]."""
        return np.arange(-_MIDDLE, _MIDDLE + 1) * math.ldexp(1.0 / _MIDDLE, self.exponent)


def exponent_of(largest: float) -> int:
    """The smallest k, from −100, with `largest` below 2^k."""
    return max(math.frexp(largest)[1], LEAST_EXPONENT) if largest else LEAST_EXPONENT


def histogram(values: Array, exponent: int) -> Histogram:
    """Count values.

    Args:
        values: one axis, float32 or float64, all below 2^exponent in size; they are not kept.
        exponent: of the range; from `exponent_of`.
    """
    # Scaling by a power of two and rounding down are exact; to add before rounding down would not be.
    exact = values if exponent <= _EXACT_IN_SINGLE else values.astype(np.float64)
    scaled = exact * exact.dtype.type(math.ldexp(_MIDDLE, -exponent))
    bins = np.floor(scaled, out=scaled).astype(np.intp)
    bins += _MIDDLE
    counts = np.bincount(bins, minlength=BINS)
    return Histogram(exponent, counts, int(counts[_MIDDLE] and values.size - np.count_nonzero(values)))


def add(one: Histogram, other: Histogram) -> Histogram:
    """The histogram of both, over the wider of their ranges."""
    exponent = max(one.exponent, other.exponent)
    counts = _widened(one, exponent) + _widened(other, exponent)
    return Histogram(exponent, counts, one.zeros + other.zeros)


def _widened(narrow: Histogram, exponent: int) -> Array:
    counts = narrow.counts
    for _ in range(min(exponent - narrow.exponent, _DOUBLINGS)):
        wider = np.zeros_like(counts)
        wider[BINS // 4 : -BINS // 4] = counts.reshape(-1, 2).sum(axis=1)
        counts = wider
    return counts


def sampled(values: Array, rows: int) -> Array:
    """One value of each of 32,768 equal stretches, or all where there are fewer; a copy, of one axis.

    Which one is drawn depends on the seed and the size alone. A fixed stride would see the same channels
    again and again.

    Args:
        values: any shape.
        rows: how many samples lie one after another in `values`; each is drawn from by itself.
    """
    each = values.size // rows
    if each <= SAMPLED:
        return values.reshape(-1)
    return values.reshape(rows, each).take(_positions(each), axis=1).reshape(-1)


@lru_cache(maxsize=128)
def _positions(size: int) -> Array:
    limits = np.arange(SAMPLED + 1) * size // SAMPLED
    drawn = np.random.default_rng(_SEED).random(SAMPLED)
    return limits[:-1] + (drawn * np.diff(limits)).astype(np.intp)
