"""Intervals that the verdict stands on, from counts and rounds; standard library only."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist


def normal_quantile(level: float) -> float:
    """The z with P(Z > z) = level, for a one-sided bound at that level."""
    return NormalDist().inv_cdf(1 - level)


def drop_interval(lost: int, gained: int, samples: int, level: float) -> tuple[float, float]:
    """Score interval for the drop of a paired proportion: (lost - gained) / samples.

    Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998). Each side has the one-sided error `level`; it never collapses
    to [0, 0] when nothing flipped, as a bootstrap does.
    """
    z = normal_quantile(level)
    point = (lost - gained) / samples
    upper = _root(lambda d: _score(lost, gained, samples, d) + z, point, 1.0)
    lower = _root(lambda d: _score(lost, gained, samples, d) - z, -1.0, point)
    return lower, upper


def _score(lost: int, gained: int, n: int, drop: float) -> float:
    """Tango's statistic for the hypothesis that the true drop is `drop`; falls as `drop` grows."""
    a = 2 * n
    b = -lost - gained + (2 * n - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * q + drop * (1 - drop))
    difference = lost - gained - n * drop
    if variance <= 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / math.sqrt(variance)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Bisect a falling function to 1e-9; an end without a change of sign is the answer itself."""
    for _ in range(60):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def median_interval(values: Sequence[float], level: float) -> tuple[float, float] | None:
    """Distribution-free interval of the median by order statistics, each side with error `level`.

    Nine values at .025 give the 2nd and the 8th. None when there are too few values for the level.
    """
    ordered = sorted(values)
    n = len(ordered)
    below, tail = 0, 0.5**n
    if tail > level:
        return None
    while tail + math.comb(n, below + 1) * 0.5**n <= level:
        below += 1
        tail += math.comb(n, below) * 0.5**n
    return ordered[below], ordered[n - 1 - below]


def difference_interval(
    first: float, first_samples: int, second: float, second_samples: int, level: float
) -> tuple[float, float] | None:
    """Hybrid score interval of first - second, two shares of different samples; None without samples.

    Newcombe, "Interval estimation for the difference between independent proportions", Statistics in
    Medicine 17 (1998), method 10. Each side has the one-sided error `level`.
    """
    if not (first_samples and second_samples):
        return None
    low1, high1 = _wilson(first, first_samples, level)
    low2, high2 = _wilson(second, second_samples, level)
    difference = first - second
    return (
        difference - math.hypot(first - low1, high2 - second),
        difference + math.hypot(high1 - first, second - low2),
    )


def _wilson(share: float, samples: int, level: float) -> tuple[float, float]:
    z2 = normal_quantile(level) ** 2
    middle = share + z2 / (2 * samples)
    spread = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * samples)) / samples)
    return (middle - spread) / (1 + z2 / samples), (middle + spread) / (1 + z2 / samples)


def quantile_interval(quantiles: Sequence[float], level: float) -> tuple[float, float]:
    """Percentile interval from evenly spaced quantiles of a bootstrap, 0 to 100 %.

    Each side has the one-sided error `level`, or less where it falls between two quantiles (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
    """
    cut = math.floor(level * (len(quantiles) - 1) + 1e-9)
    return quantiles[cut], quantiles[-1 - cut]
