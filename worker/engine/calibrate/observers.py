"""What is kept of a tensor's values: independent of how samples are split, so it merges."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.domain.errors import Refused


@dataclass(frozen=True)
class Extent:
    """The smallest and the largest finite value of a tensor, and whether others were seen."""

    lowest: float
    highest: float
    finite: bool = True


@dataclass(frozen=True)
class Statistics:
    """Extents of activations by tensor name, over so many samples."""

    samples: int
    tensors: Mapping[str, Extent] = field(default_factory=dict)

    @property
    def not_finite(self) -> tuple[str, ...]:
        """Tensors that were NaN or infinite somewhere, in order of name."""
        return tuple(sorted(name for name, extent in self.tensors.items() if not extent.finite))


def observe(values: npt.NDArray[Any]) -> Extent | None:
    """The extent of one sample's values; None when there are none.

    Args:
        values: any shape, float16 or float32.
    """
    if not values.size:
        return None
    lowest, highest = float(values.min()), float(values.max())
    if np.isfinite(lowest) and np.isfinite(highest):
        return Extent(lowest, highest)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Extent(0.0, 0.0, finite=False)
    return Extent(float(finite.min()), float(finite.max()), finite=False)


def widen(one: Extent | None, other: Extent | None) -> Extent | None:
    """The extent of both."""
    if one is None or other is None:
        return one or other
    return Extent(
        min(one.lowest, other.lowest), max(one.highest, other.highest), finite=one.finite and other.finite
    )


def merge(one: Statistics, other: Statistics) -> Statistics:
    """The statistics of both sets of samples, as one run over all would have given."""
    names = one.tensors.keys() | other.tensors.keys()
    both = {name: widen(one.tensors.get(name), other.tensors.get(name)) for name in sorted(names)}
    return Statistics(one.samples + other.samples, {n: extent for n, extent in both.items() if extent})


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write statistics as npz; equal statistics give equal bytes."""
    names = sorted(statistics.tensors)
    extents = [statistics.tensors[name] for name in names]
    with path.open("wb") as file:
        np.savez(
            file,
            samples=np.int64(statistics.samples),
            names=np.array([name.encode() for name in names], dtype=np.bytes_),
            ranges=np.array([(e.lowest, e.highest) for e in extents], np.float64).reshape(-1, 2),
            finite=np.array([e.finite for e in extents], np.bool_),
        )


def load_statistics(path: Path) -> Statistics:
    """Read what `save_statistics` wrote.

    Raises:
        Refused: `invalid_statistics` when the file is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns = zip(stored["names"], stored["ranges"], stored["finite"], strict=True)
            extents = {
                name.decode(): Extent(float(low), float(high), finite=bool(finite))
                for name, (low, high), finite in columns
            }
            return Statistics(int(stored["samples"]), extents)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise Refused("invalid_statistics", f"{path.name} holds no calibration statistics.") from error
