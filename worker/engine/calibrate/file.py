"""Statistics as a file: an npz of a few long arrays."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.domain.errors import Refused
from worker.engine.calibrate.histogram import BINS, LEAST_EXPONENT, Histogram
from worker.engine.calibrate.observers import Extent, Statistics

Array = npt.NDArray[Any]
_NONE = -1  # the length of what a tensor does not have
_MOST_EXPONENT = 1024
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    OverflowError,
    NotImplementedError,
    zlib.error,
    zipfile.BadZipFile,
)


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write statistics as npz; equal statistics give equal bytes."""
    names = sorted(statistics.tensors)
    extents = [statistics.tensors[name] for name in names]
    spreads = [_trimmed(extent.histogram) for extent in extents]
    channels = [extent.channels for extent in extents]
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            samples=np.int64(statistics.samples),
            names=np.array([name.encode() for name in names], dtype=np.bytes_),
            ranges=np.array([(e.lowest, e.highest) for e in extents], np.float64).reshape(-1, 2),
            finite=np.array([e.finite for e in extents], np.bool_),
            spreads=np.array([head for head, _ in spreads], np.int64).reshape(-1, 4),
            counts=_joined([counts for _, counts in spreads], np.int64),
            channels=np.array([_NONE if c is None else c.size for c in channels], np.int64),
            largest=_joined([c for c in channels if c is not None], np.float64),
        )


def load_statistics(path: Path) -> Statistics:
    """Read what `save_statistics` wrote.

    Raises:
        Refused: `invalid_statistics` when the file is something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return _read({name: stored[name] for name in stored.files})
    except _BROKEN as error:
        raise Refused("invalid_statistics", f"{path.name} holds no calibration statistics.") from error


def _read(stored: dict[str, Array]) -> Statistics:
    counts = _parts(stored["counts"], stored["spreads"][:, 2])
    largest = _parts(stored["largest"], stored["channels"])
    columns = zip(
        stored["names"],
        stored["ranges"].tolist(),
        stored["finite"],
        stored["spreads"].tolist(),
        counts,
        largest,
        strict=True,
    )
    tensors = {
        name.decode(): Extent(
            low, high, finite=bool(finite), histogram=_spread(head, part), channels=channels
        )
        for name, (low, high), finite, head, part, channels in columns
    }
    if not np.isfinite(stored["ranges"]).all():
        raise ValueError("a range is not finite")
    return Statistics(int(stored["samples"]), tensors)


def _trimmed(spread: Histogram | None) -> tuple[tuple[int, int, int, int], Array]:
    """Exponent, first bin that is not empty, how many bins from there, zeros; and their counts."""
    if spread is None:
        return (0, 0, _NONE, 0), np.empty(0, np.int64)
    filled = np.flatnonzero(spread.counts)
    first, last = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 0)
    return (spread.exponent, first, last - first, spread.zeros), spread.counts[first:last]


def _spread(head: Sequence[int], part: Array | None) -> Histogram | None:
    if part is None:
        return None
    exponent, first, length, zeros = head
    inside = 0 <= first <= first + length <= BINS and LEAST_EXPONENT <= exponent <= _MOST_EXPONENT
    if not inside or (part < 0).any():
        raise ValueError("a histogram is out of bounds")
    counts = np.zeros(BINS, np.int64)
    counts[first : first + length] = part
    return Histogram(exponent, counts, zeros)


def _joined(parts: Sequence[Array], kind: type) -> Array:
    return np.concatenate([np.empty(0, kind), *parts]).astype(kind)


def _parts(joined: Array, lengths: Array) -> list[Array | None]:
    """Cut what `_joined` made; None for a length of −1."""
    sizes = np.maximum(lengths, 0)
    if sizes.sum() != joined.size:
        raise ValueError("the lengths do not add up")
    cut = np.split(joined, np.cumsum(sizes)[:-1]) if sizes.size else []
    return [part if length != _NONE else None for part, length in zip(cut, lengths, strict=True)]
