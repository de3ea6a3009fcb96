"""Intervals against published values, closed forms, an independent computation, and simulation."""

import math
import random
from collections.abc import Callable
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.intervals import drop_interval, median_interval, normal_quantile


@pytest.mark.parametrize(
    ("level", "z"), [(0.05, 1.6448536), (0.025, 1.9599640), (0.005, 2.5758293), (0.5, 0.0)]
)
def test_normal_quantiles_are_those_of_the_tables(level: float, z: float) -> None:
    assert normal_quantile(level) == pytest.approx(z, abs=1e-6)


def test_tangos_interval_has_the_published_limits() -> None:
    """Airway hyper-responsiveness before and after a transplant, 21 children, in Fagerland et al. (2014)."""
    lower, upper = drop_interval(1, 7, 21, 0.025)

    assert (round(lower, 3), round(upper, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize("samples", [1, 10, 400, 100_000])
@pytest.mark.parametrize("level", [0.05, 0.025, 0.001])
def test_when_nothing_flips_the_interval_has_a_closed_form(samples: int, level: float) -> None:
    z = NormalDist().inv_cdf(1 - level)
    expected = z * z / (samples + z * z)

    assert drop_interval(0, 0, samples, level) == pytest.approx((-expected, expected), abs=1e-6)


@pytest.mark.parametrize(
    ("lost", "gained", "samples"), [(5, 2, 100), (0, 3, 50), (40, 10, 60), (1, 0, 1000), (30, 30, 70)]
)
def test_tangos_limits_are_where_an_independent_score_test_stops_rejecting(
    lost: int, gained: int, samples: int
) -> None:
    level = 0.025
    z = NormalDist().inv_cdf(1 - level)

    lower, upper = drop_interval(lost, gained, samples, level)

    assert score(lost, gained, samples, lower) == pytest.approx(z, abs=1e-3)
    assert score(lost, gained, samples, upper) == pytest.approx(-z, abs=1e-3)


def score(lost: int, gained: int, n: int, drop: float) -> float:
    """The score statistic, with the nuisance parameter found by maximizing the likelihood itself."""
    gains = maximum(lambda g: likelihood(lost, gained, n, g, drop), max(0.0, -drop), (1 - drop) / 2)
    return (lost - gained - n * drop) / math.sqrt(n * (2 * gains + drop - drop * drop))


def likelihood(lost: int, gained: int, n: int, gains: float, drop: float) -> float:
    cells = ((lost, gains + drop), (gained, gains), (n - lost - gained, 1 - 2 * gains - drop))
    return sum(count * math.log(max(share, 1e-300)) for count, share in cells if count)


def maximum(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a concave function is greatest, by golden sections."""
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-13:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if function(left) < function(right):
            low = left
        else:
            high = right
    return (low + high) / 2


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 200))
def test_the_interval_holds_the_drop_and_mirrors_when_sides_are_swapped(
    lost: int, gained: int, same: int
) -> None:
    samples = max(lost + gained + same, 1)

    lower, upper = drop_interval(lost, gained, samples, 0.05)
    mirrored = drop_interval(gained, lost, samples, 0.05)

    assert -1 <= lower <= (lost - gained) / samples + 1e-6
    assert (lost - gained) / samples - 1e-6 <= upper <= 1
    assert mirrored == pytest.approx((-upper, -lower), abs=1e-6)


@given(st.integers(0, 20), st.integers(0, 20))
def test_more_certainty_takes_a_wider_interval(lost: int, gained: int) -> None:
    narrow = drop_interval(lost, gained, 100, 0.05)
    wide = drop_interval(lost, gained, 100, 0.005)

    assert wide[0] < narrow[0]
    assert narrow[1] < wide[1]


@pytest.mark.parametrize("rates", [(0.02, 0.01), (0.005, 0.005), (0.1, 0.02)])
def test_the_drop_interval_covers_the_truth_as_often_as_it_says(rates: tuple[float, float]) -> None:
    draw = random.Random(20240817)  # noqa: S311 - a simulation
    worse, better = rates
    covered = 0
    for _ in range(1000):
        outcomes = draw.choices("lgs", (worse, better, 1 - worse - better), k=300)
        lower, upper = drop_interval(outcomes.count("l"), outcomes.count("g"), 300, 0.025)
        covered += lower <= worse - better <= upper

    assert 930 <= covered <= 985


def test_nine_rounds_give_the_second_and_the_eighth() -> None:
    assert median_interval([9, 1, 8, 2, 7, 3, 6, 4, 5], 0.025) == (2, 8)


@pytest.mark.parametrize(
    ("rounds", "level", "ends"),
    [
        (5, 0.05, (1, 5)),  # 1/32 in each tail
        (6, 0.025, (1, 6)),  # 1/64
        (8, 0.05, (2, 7)),  # 9/256
        (9, 0.05, (2, 8)),  # 10/512
        (9, 0.005, (1, 9)),  # 1/512
        (12, 0.025, (3, 10)),  # 79/4096
        (20, 0.025, (6, 15)),  # the textbooks' 95 % for n = 20
    ],
)
def test_order_statistics_of_a_median(rounds: int, level: float, ends: tuple[int, int]) -> None:
    assert median_interval(range(1, rounds + 1), level) == ends


@pytest.mark.parametrize(("rounds", "level"), [(0, 0.05), (4, 0.05), (5, 0.025), (9, 0.001)])
def test_too_few_rounds_give_no_interval(rounds: int, level: float) -> None:
    assert median_interval(range(rounds), level) is None


def test_the_median_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw = random.Random(4)  # noqa: S311 - a simulation
    covered = 0
    for _ in range(4000):
        interval = median_interval([draw.expovariate(1) for _ in range(9)], 0.025)
        assert interval is not None
        covered += interval[0] <= math.log(2) <= interval[1]

    assert covered / 4000 == pytest.approx(1 - 2 * 10 / 512, abs=0.01)
