"""Metrics against scikit-learn and plain definitions; the bootstrap against what it should cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score

from app.domain.intervals import quantile_interval
from worker.engine.evaluate import metrics
from worker.engine.evaluate.bootstrap import drop_quantiles, widened

TIED = arrays(np.float64, st.integers(3, 30), elements=st.integers(-3, 3).map(float))


def ones(count: int) -> np.ndarray:
    return np.ones((1, count))


@given(TIED)
def test_equal_values_share_the_mean_of_their_ranks(values: np.ndarray) -> None:
    expected = [(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values]

    assert metrics.ranks(values, ones(len(values)))[0].tolist() == expected


@given(TIED, st.data())
def test_weights_count_copies(values: np.ndarray, data: st.DataObject) -> None:
    n = len(values)
    drawn = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n)))
    others = np.random.default_rng(n).normal(size=n)
    weights = np.bincount(drawn, minlength=n)[None].astype(float)

    for metric in (metrics.pearson, metrics.spearman):
        weighted = metric(list(zip(values, others, strict=True)))(weights)
        copied = metric(list(zip(values[drawn], others[drawn], strict=True)))(ones(n))
        assert weighted == pytest.approx(copied, abs=1e-9)


def test_correlations_are_those_of_their_definitions() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    b += a
    rows = list(zip(a, b, strict=True))
    rank = [np.argsort(np.argsort(x)) for x in (a, b)]

    assert metrics.pearson(rows)(ones(50))[0] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert metrics.spearman(rows)(ones(50))[0] == pytest.approx(np.corrcoef(rank[0], rank[1])[0, 1])


@pytest.mark.parametrize("unit", [1e-30, 1e-7, 1e7])
@pytest.mark.parametrize("offset", [0, 1e5])
def test_correlations_do_not_depend_on_the_unit(unit: float, offset: float) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 50)) + offset
    b += a
    rows = list(zip(a * unit, b * unit, strict=True))

    for metric in (metrics.pearson, metrics.spearman):
        assert metric(rows)(ones(50)) == pytest.approx(metric(list(zip(a, b, strict=True)))(ones(50)))
    assert metrics.pearson(rows)(ones(50))[0] == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_what_is_constant_correlates_with_nothing() -> None:
    assert metrics.spearman([(1.0, 2.0), (1.0, 3.0), (1.0, 1.0)])(ones(3)).tolist() == [0.0]


@given(st.floats(-1e30, 1e30), st.integers(3, 2000))
def test_a_constant_prediction_has_no_correlation(value: float, count: int) -> None:
    targets = np.random.default_rng(0).normal(size=count)

    assert metrics.pearson([(value, target) for target in targets])(ones(count)).tolist() == [0.0]


@pytest.mark.parametrize("average", ["macro", "micro", "binary"])
def test_f1_is_that_of_scikit_learn(average: str) -> None:
    classes = 2 if average == "binary" else 5
    labels, predicted = np.random.default_rng(1).integers(0, classes, (2, 60))
    rows = [(labels[i : i + 3], predicted[i : i + 3]) for i in range(0, 60, 3)]

    found = metrics.f1(rows, average)(ones(20))[0]

    assert found == pytest.approx(f1_score(labels, predicted, average=average))


def test_psnr_is_in_decibels_of_the_range() -> None:
    assert metrics.psnr(np.full(4, 26.0), np.full(4, 0.5), 255) == pytest.approx(20.0)
    assert metrics.psnr(np.zeros(4), np.zeros(4), 1) == 200


def test_the_bootstrap_covers_the_true_drop_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(3)
    covered = 0
    for _ in range(120):
        baseline, loss = draw.normal(size=60), draw.normal(0.2, 1, 60)
        values = metrics.mean(baseline.tolist()), metrics.mean((baseline - loss).tolist())
        low, high = quantile_interval(drop_quantiles(*values, np.arange(60)), 0.05)
        covered += low <= 0.2 <= high

    assert 0.82 <= covered / 120 <= 0.97  # 90 % two-sided, over 120 trials


def test_streams_are_drawn_whole() -> None:
    draw = np.random.default_rng(4)
    loss = np.repeat(draw.normal(size=20), 30)
    values = metrics.mean(np.zeros(600).tolist()), metrics.mean((-loss).tolist())

    alone = quantile_interval(drop_quantiles(*values, np.arange(600)), 0.025)
    whole = quantile_interval(drop_quantiles(*values, np.repeat(np.arange(20), 30)), 0.025)

    assert whole[1] - whole[0] > 3 * (alone[1] - alone[0])


def test_answers_that_never_flipped_are_not_taken_for_certain() -> None:
    low, high = quantile_interval(widened((0.0,) * 201, 0, 0, 50), 0.05)

    assert low < -0.03
    assert high > 0.03
