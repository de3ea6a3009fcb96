"""Mean intersection over union."""

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from worker.engine.evaluate.overlap import counts, miou

DRAW = np.random.default_rng(3)


def test_miou_is_scikit_learns_jaccard_score_over_all_positions() -> None:
    labels, predicted = DRAW.integers(0, 4, (2, 6, 50))
    rows = [counts(*pair, 4) for pair in zip(labels, predicted, strict=True)]

    found = miou(rows)(np.ones((1, 6)))

    expected = jaccard_score(labels.ravel(), predicted.ravel(), average="macro")
    assert found == pytest.approx([expected])


def test_classes_that_occur_nowhere_do_not_count() -> None:
    zeros = np.zeros(5, int)

    assert miou([counts(zeros, zeros, 150)])(np.ones((1, 1))) == [1.0]


def test_weights_are_samples_drawn_several_times() -> None:
    labels, predicted = DRAW.integers(0, 3, (2, 4, 9))
    rows = [counts(*pair, 3) for pair in zip(labels, predicted, strict=True)]
    weights = np.array([[2, 0, 1, 1], [0, 0, 0, 4]])

    found = miou(rows)(weights)

    for row, value in zip(weights, found, strict=True):
        again = [rows[i] for i, times in enumerate(row) for _ in range(times)]
        assert value == pytest.approx(miou(again)(np.ones((1, 4)))[0])
