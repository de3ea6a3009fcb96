"""Where to clip a tensor's range: by squared error and by Kullback-Leibler divergence, from its histogram."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from worker.engine.calibrate.histogram import Histogram
from worker.engine.calibrate.observers import Extent

Floats = npt.NDArray[np.float64]
Cost = Callable[[Floats, Floats], Floats]  # of ranges, given as their lowest and highest values
_COARSE = 256  # bins are joined to at most twice as many before errors are summed
_SHARES = np.geomspace(1.0, 0.01, 32)  # of the whole range: 14 % apart
_FINE = np.linspace(-1.0, 1.0, 13)[1:-1]  # between two of them
_ROUNDS = 2
_HALF_A_COUNT = 0.5
_GAIN = 1e-9  # a smaller gain is rounding


def least(extent: Extent, cost: Cost, *, symmetric: bool) -> tuple[float, float]:
    """The range of least cost, by turns for each end: coarse steps, then finer ones around the best.

    A side without values keeps its end at 0. The whole range is one of the candidates, and wins a tie.

    Args:
        extent: with a histogram.
        cost: of many ranges at once.
        symmetric: whether the range is [-a, a].
    """
    low, high = min(extent.lowest, 0.0), max(extent.highest, 0.0)
    if symmetric:
        high = _search(max(-low, high), lambda ends: cost(-ends, ends))
        return -high, high
    for _ in range(_ROUNDS if low and high else 1):
        start = low, high
        high = _search(max(extent.highest, 0.0), lambda ends, low=low: cost(np.full_like(ends, low), ends))  # type: ignore[misc]
        low = -_search(
            -min(extent.lowest, 0.0),
            lambda ends, high=high: cost(-ends, np.full_like(ends, high)),  # type: ignore[misc]
        )
        if (low, high) == start:
            break
    return low, high


def _search(whole: float, cost: Callable[[Floats], Floats]) -> float:
    """The end in (0, whole] of least cost."""
    if whole == 0.0:
        return 0.0
    coarse = whole * _SHARES
    best = _cheapest(coarse, cost(coarse))
    step = best * (1 - _SHARES[1])
    fine = np.minimum(np.concatenate([[best], best + step * _FINE]), whole)
    return _cheapest(fine, cost(fine))


def _cheapest(ends: Floats, costs: Floats) -> float:
    """The first one, unless another is cheaper by more than rounding."""
    index = int(np.argmin(costs))
    return float(ends[index] if costs[index] < costs[0] * (1 - _GAIN) else ends[0])


def squared_error(spread: Histogram, levels: int, *, clipping: float = 1.0) -> Cost:
    """What quantizing to `levels` steps loses: rounding inside the range, clipping outside.

    Values are taken as even within a bin; both parts are then integrals in closed form, and exact zeros,
    which every grid holds, lose nothing. The sum over bins is one product, by summation by parts.
    What is clipped counts `clipping` times: it has one sign, and does not average out as rounding does.
    """
    edges, counts = _occupied(spread, _COARSE)
    density = counts / np.diff(edges)
    weights = -np.diff(density, prepend=0.0, append=0.0)

    def cost(low: Floats, high: Floats) -> Floats:
        low, high = low[:, None], high[:, None]
        step = (high - low) / (levels - 1)
        inside = np.clip(edges, low, high)
        turns = inside / step
        whole = np.rint(turns)
        rounding = _cube(step) * (whole / 12 + _cube(turns - whole) / 3)
        total: Floats = (rounding + clipping * _cube(edges - inside) / 3) @ weights
        return total

    return cost


def divergence(spread: Histogram, levels: int) -> Cost:
    """Kullback-Leibler divergence of the quantized histogram from the real one.

    As in TensorRT's calibration: the real one has what is clipped in its outermost bins, the quantized one
    spreads each level evenly over the bins of that level that are not empty, and knows nothing of what was
    clipped. Here both ends are free, exact zeros are left out, and all levels come from running sums.
    """
    edges, counts = _occupied(spread, counts_kept=None)
    total = counts.sum()
    mass, filled = _running(counts), _running(counts > 0)
    own = _running(_plogp(counts))

    def cost(low: Floats, high: Floats) -> Floats:
        first = np.searchsorted(edges, low, side="right") - 1
        last = np.maximum(np.searchsorted(edges, high, side="left"), first + 1)
        first, last = np.clip(first, 0, counts.size - 1), np.clip(last, 1, counts.size)
        shares = np.linspace(0.0, 1.0, min(levels, counts.size) + 1)
        limits = np.rint(first[:, None] + (last - first)[:, None] * shares).astype(np.intp)
        level, bins = np.diff(mass[limits], axis=1), np.diff(filled[limits], axis=1)
        height = np.log(np.maximum(level, _HALF_A_COUNT) / np.maximum(bins, 1))
        below, above = mass[first], total - mass[last]
        kept = total - below - above
        for edge, out in ((level[:, 0], below), (level[:, -1], above)):
            kept = kept + _HALF_A_COUNT * ((edge == 0) & (out > 0))  # what an empty level is taken to hold
        real = own[last] - own[first]
        for bin_, out in ((first, below), (last - 1, above)):
            real = real + _plogp(counts[bin_] + out) - _plogp(counts[bin_])
        quantized = (level * height).sum(axis=1) + below * height[:, 0] + above * height[:, -1]
        result: Floats = real - quantized + total * np.log(np.maximum(kept, _HALF_A_COUNT) / total)
        return result

    return cost


def _cube(values: Floats) -> Floats:
    return values * values * values  # a power takes ten times as long


def _plogp(counts: Floats) -> Floats:
    return counts * np.log(np.maximum(counts, 1.0))


def _running(values: Floats | npt.NDArray[np.bool_]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _occupied(spread: Histogram, counts_kept: int | None) -> tuple[Floats, Floats]:
    """The bins from the first to the last that are not empty, without exact zeros: edges, counts.

    With `counts_kept`, pairs are joined while there are more than twice as many.
    """
    counts, edges = spread.counts.astype(np.float64), spread.edges
    counts[counts.size // 2] -= spread.zeros
    filled = np.flatnonzero(counts)
    first, last = filled[0], filled[-1] + 1
    while counts_kept and last - first > 2 * counts_kept:
        counts, edges = counts.reshape(-1, 2).sum(axis=1), edges[::2]
        first, last = first // 2, -(-last // 2)
    return edges[first : last + 1], counts[first:last]
