"""What is kept of a tensor's values: independent of how samples are split or batched, so it merges."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.engine.calibrate.histogram import Histogram, add, exponent_of, histogram, sampled

Array = npt.NDArray[Any]
LAST = -1


@dataclass(frozen=True, eq=False)
class Extent:
    """How far a tensor's finite values reach, exactly, and how a sample of them is spread.

    `finite` is False when others were seen. `channels` [C], float64, are the largest sizes by channel.
    Without a histogram every range method gives the smallest and the largest value.
    """

    lowest: float
    highest: float
    finite: bool = True
    histogram: Histogram | None = None
    channels: Array | None = None

    def __eq__(self, other: object) -> bool:
        """Whether all is the same."""
        if not isinstance(other, Extent):
            return NotImplemented
        mine = self.lowest, self.highest, self.finite, self.histogram
        same = mine == (other.lowest, other.highest, other.finite, other.histogram)
        return same and np.array_equal(self.channels, other.channels)  # type: ignore[arg-type]

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Statistics:
    """Extents of activations by tensor name, over so many samples."""

    samples: int
    tensors: Mapping[str, Extent] = field(default_factory=dict)

    @property
    def not_finite(self) -> tuple[str, ...]:
        """Tensors that were NaN or infinite somewhere, in order of name."""
        return tuple(sorted(name for name, extent in self.tensors.items() if not extent.finite))

    def channel_maximum(self, tensor: str) -> Array | None:
        """The largest absolute value of each channel, float64 [C].

        Channels are axis 1 of what a Conv reads, and the last axis of what a MatMul or a Gemm reads.

        Returns:
            None unless the tensor is the first input of one of these with constant weights, or when its
            samples differ in channels.
        """
        return self.tensors[tensor].channels if tensor in self.tensors else None


def observe(values: Array, *, axis: int | None = None, rows: int = 1) -> Extent | None:
    """The extent of one run's values; None when there are none.

    Args:
        values: any shape, float16, float32 or float64.
        axis: where its channels are, 1 or −1; None keeps nothing by channel.
        rows: how many samples lie one after another in `values`.
    """
    if not values.size:
        return None
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    low, high = _extremes(values, axis)
    lowest, highest = float(low.min()), float(high.max())
    if np.isfinite(lowest) and np.isfinite(highest):
        spread = histogram(sampled(values, rows), exponent_of(max(-lowest, highest)))
        channels = None if axis is None else np.maximum(-low, high).astype(np.float64)
        return Extent(lowest, highest, histogram=spread, channels=channels)
    return _observe_finite(values, axis, rows)


def _extremes(values: Array, axis: int | None) -> tuple[Array, Array]:
    """Lowest and highest, by channel where there are channels."""
    if axis is None or not values.ndim:
        return values.min(), values.max()
    if axis == LAST:
        rows = values.reshape(-1, values.shape[-1])
        return rows.min(axis=0), rows.max(axis=0)
    planes = values.reshape(*values.shape[:2], -1)
    return planes.min(axis=2).min(axis=0), planes.max(axis=2).max(axis=0)


def _observe_finite(values: Array, axis: int | None, rows: int) -> Extent:
    finite = np.isfinite(values)
    if not finite.any():
        return Extent(0.0, 0.0, finite=False)
    lowest, highest = float(values[finite].min()), float(values[finite].max())
    drawn = sampled(values, rows)
    spread = histogram(drawn[np.isfinite(drawn)], exponent_of(max(-lowest, highest)))
    low, high = _extremes(np.where(finite, values, 0), axis)
    channels = None if axis is None else np.maximum(-low, high).astype(np.float64)
    return Extent(lowest, highest, finite=False, histogram=spread, channels=channels)


def widen(one: Extent | None, other: Extent | None) -> Extent | None:
    """The extent of both; what only one of them knows is dropped, so that order does not matter."""
    if one is None or other is None:
        return one or other
    spread = add(one.histogram, other.histogram) if one.histogram and other.histogram else None
    return Extent(
        min(one.lowest, other.lowest),
        max(one.highest, other.highest),
        finite=one.finite and other.finite,
        histogram=spread,
        channels=_largest(one.channels, other.channels),
    )


def _largest(one: Array | None, other: Array | None) -> Array | None:
    if one is None or other is None or one.shape != other.shape:
        return None
    largest: Array = np.maximum(one, other)
    return largest


def merge(one: Statistics, other: Statistics) -> Statistics:
    """The statistics of both sets of samples, as one run over all would have given."""
    names = one.tensors.keys() | other.tensors.keys()
    both = {name: widen(one.tensors.get(name), other.tensors.get(name)) for name in sorted(names)}
    return Statistics(one.samples + other.samples, {n: extent for n, extent in both.items() if extent})
