"""How far a drop may be off by the choice of samples: a paired bootstrap over samples or streams."""

import numpy as np

from app.domain.intervals import drop_interval
from worker.engine.data.dataset import Array
from worker.engine.evaluate.metrics import Value

RESAMPLES = 2000
AT_LEAST = 10  # fewer samples say hardly anything about their spread
SEED = 2026
POINTS = 201
AT_ONCE = 2_000_000  # weights in memory


def drop_quantiles(baseline: Value, candidate: Value, groups: Array) -> tuple[float, ...]:
    """Quantiles of baseline minus candidate, 201 from 0 to 100 %, when whole groups are drawn again.

    Both models get the same draws (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

    Args:
        baseline: the float model's metric by weights.
        candidate: the candidate's.
        groups: [samples] int; samples of one group, such as a stream, are drawn together.
    """
    draw = np.random.default_rng(SEED)
    count = int(groups.max()) + 1
    size = max(1, min(RESAMPLES, AT_ONCE // len(groups)))
    drops = []
    for start in range(0, RESAMPLES, size):
        weights = _weights(draw, min(size, RESAMPLES - start), count)[:, groups]
        drops.append(baseline(weights) - candidate(weights))
    return tuple(np.quantile(np.concatenate(drops), np.linspace(0, 1, POINTS)).tolist())


def widened(quantiles: tuple[float, ...], lost: int, gained: int, samples: int) -> tuple[float, ...]:
    """The quantiles, none nearer to the middle than the score interval of the answers that flipped.

    A bootstrap of answers none of which flipped would say that none ever does.
    """
    middle = len(quantiles) // 2
    outer = list(quantiles)
    for place in range(middle):
        level = max(place / (len(quantiles) - 1), 0.5 / RESAMPLES)
        low, high = drop_interval(lost, gained, samples, level)
        outer[place] = min(outer[place], low)
        outer[-1 - place] = max(outer[-1 - place], high)
    return tuple(outer)


def _weights(draw: np.random.Generator, resamples: int, count: int) -> Array:
    """How often each group is drawn, [resamples, count]."""
    drawn = draw.integers(0, count, (resamples, count)) + count * np.arange(resamples)[:, None]
    counts: Array = np.bincount(drawn.ravel(), minlength=resamples * count).astype(np.float64)
    return counts.reshape(resamples, count)
