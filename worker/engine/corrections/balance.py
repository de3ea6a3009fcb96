"""How large channels should be between a tensor with one scale and weights with one per output channel."""

from collections.abc import Iterable, Iterator

import numpy as np

from worker.engine.calibrate import Extent
from worker.engine.corrections.weights import Doubles

_ALPHAS = (0.5, 0.3, 0.4, 1.0)  # SmoothQuant's first: it wins a tie
_HALF = 0.5
_OUTLIERS = (1, 2, 4, 8, 16, 32, 64)
# Of the largest channel, added to all: unseen data go further than calibration did, and were all channels
# equally large, each of them would be clipped then. Without it resnet_4b loses 12 dB.
_ROOM = 0.5
# Behind no normalization: no channel is divided by more than two. With half as much room the vision
# transformer of CIFAR-10 loses 1.2 dB, and 7 without any; with this it wins 0.6.
_MORE_ROOM = 1.0
_TINY = float(np.finfo(np.float32).tiny)


def best_scales(extent: Extent, weights: Doubles) -> tuple[Doubles, float]:
    """Scales of least estimated error, float64 [channels], and that error as a share of the one without.

    Candidates are activations^alpha / weights^(1 − alpha), by their largest values, and scales that bring up
    to 64 outliers down to the size of the next channel and leave all others.

    Args:
        extent: of the tensor, with its largest sizes by channel.
        weights: that it meets, [groups, outputs of each, channels of each, kernel].
    """
    largest = np.asarray(extent.channels, np.float64)
    return _least(extent, weights, _candidates(_roomy(largest, _ROOM), _columns(weights)))


def _roomy(largest: Doubles, room: float) -> Doubles:
    """All channels that are used, larger by a share of the largest one."""
    roomy: Doubles = largest + room * largest.max(initial=0.0) * (largest > 0)
    return roomy


def even_scales(extent: Extent, weights: Doubles) -> tuple[Doubles, float]:
    """Scales sqrt(activations / weights) by their largest values, and their error, as of `best_scales`."""
    largest = np.asarray(extent.channels, np.float64)
    return _least(extent, weights, [_shared(largest, _columns(weights), _HALF)])


def outlier_scales(extent: Extent, weights: Doubles) -> tuple[Doubles, float]:
    """Scales from 1 to 2 that bring down up to 64 outliers alone, and their error, as of `best_scales`."""
    roomy = _roomy(np.asarray(extent.channels, np.float64), _MORE_ROOM)
    return _least(extent, weights, _outliers(roomy, _columns(weights)))


def _least(extent: Extent, weights: Doubles, candidates: Iterable[Doubles]) -> tuple[Doubles, float]:
    largest = np.asarray(extent.channels, np.float64)
    spread = _energy(extent) / max(float(np.square(largest).sum()), _TINY)
    plain = max(_error(largest, weights, spread), _TINY)
    best, remains = np.ones_like(largest), 1.0
    for scales in candidates:
        share = _error(largest / scales, weights * by_group(scales, weights), spread) / plain
        if share < remains:
            best, remains = scales, share
    return best.astype(np.float32).astype(np.float64), remains


def _columns(weights: Doubles) -> Doubles:
    """The largest weight of each channel."""
    largest: Doubles = np.abs(weights).max(axis=(1, 3)).reshape(-1)
    return largest


def by_group(scales: Doubles, weights: Doubles) -> Doubles:
    """Scales [channels] in the shape in which they multiply `weights`."""
    return scales.reshape(weights.shape[0], 1, weights.shape[2], 1)


def _candidates(largest: Doubles, columns: Doubles) -> Iterator[Doubles]:
    yield from (_shared(largest, columns, alpha) for alpha in _ALPHAS)
    yield from _outliers(largest, columns)


def _outliers(largest: Doubles, columns: Doubles) -> Iterator[Doubles]:
    falling = np.sort(largest[(largest > 0) & (columns > 0)])[::-1]
    for outliers in _OUTLIERS:
        if outliers < len(falling):
            yield np.maximum(largest / falling[outliers], 1.0)


def _shared(largest: Doubles, columns: Doubles, alpha: float) -> Doubles:
    """How activations and weights share their sizes; channels that either lacks stay as they are."""
    usable = (largest > 0) & (columns > 0)
    scales = np.ones_like(largest)
    if usable.any():
        some = largest[usable] ** alpha / columns[usable] ** (1 - alpha)
        scales[usable] = some / np.exp(np.log(some).mean())
    return scales


def _error(largest: Doubles, weights: Doubles, spread: float) -> float:
    """What rounding both costs: each error is as large as a range and meets all values of the other side."""
    of_activations = largest.max() ** 2 * np.square(weights).sum()
    steps = np.square(np.abs(weights).max(axis=(2, 3))).sum(axis=1)
    energies = np.square(largest).reshape(len(weights), -1).sum(axis=1) * weights.shape[3]
    return float(of_activations + spread * (steps @ energies))


def _energy(extent: Extent) -> float:
    """The sum of the mean squares of a tensor's channels, from its histogram."""
    spread = extent.histogram
    if spread is None or extent.channels is None or not spread.counts.sum():
        return 0.0
    middles = (spread.edges[1:] + spread.edges[:-1]) / 2
    return float(len(extent.channels) * (spread.counts @ np.square(middles)) / spread.counts.sum())
