"""How much data decides how small a drop: power calculations for answers in pairs.

`level` is the one-sided error of a bound, so .05/k with k candidates; a drop that is there is missed with a
chance of 20 %.
"""

import math

from app.domain.intervals import normal_quantile

MISSED = 0.2
LEAST_DROP = 1e-4  # the samples that decide no drop at all are endless


def deciding_factor(level: float) -> float:
    """(z_level + z_.20)²: about 6.2 for one candidate, 10.5 for six."""
    return (normal_quantile(level) + normal_quantile(MISSED)) ** 2


def smallest_drop(samples: int, flip_rate: float, level: float) -> float:
    """The smallest drop that this many samples decide; never less than the bound when nothing flips."""
    z2 = normal_quantile(level) ** 2
    by_flips = math.sqrt(deciding_factor(level) * flip_rate / samples)
    return min(max(by_flips, z2 / (samples + z2)), 1.0)


def samples_for(drop: float, flip_rate: float, level: float) -> int:
    """About how many samples decide a drop of a share, if this share of them flips."""
    z2, least = normal_quantile(level) ** 2, max(drop, LEAST_DROP)
    return max(samples_for_variance(drop, flip_rate, level), math.ceil(z2 * (1 - least) / least))


def samples_for_variance(drop: float, variance: float, level: float) -> int:
    """About how many samples decide a drop, if one sample's drop has this variance."""
    return math.ceil(deciding_factor(level) * variance / max(drop, LEAST_DROP) ** 2)
