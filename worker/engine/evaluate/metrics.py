"""Metrics as functions of resampling weights, so that a bootstrap takes no loop over samples.

Each function takes what was noted of every sample and answers a function of weights, [resamples, samples],
which gives the metric of each resample, [resamples] float64. Weights of ones give the metric itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from app.domain.job import PERPLEXITY
from worker.engine.data.dataset import Array

Value = Callable[[Array], Array]
LESS_IS_BETTER = frozenset({"mse", "mae", PERPLEXITY})
LARGEST_EXPONENT = 700.0  # a little more overflows float64
EXACT_DB = 200.0
_ROUNDING = 1e-12  # of float64, with room for sums


def mean(rows: Sequence[float]) -> Value:
    """The mean of one number for each sample."""
    numbers = np.asarray(rows, np.float64)
    return lambda weights: weights @ numbers / weights.sum(1)


def perplexity(rows: Sequence[tuple[float, int]]) -> Value:
    """E to the mean negative log-likelihood of all tokens.

    Args:
        rows: of each sample, the sum of -log p over its tokens, and their number.
    """
    lost, tokens = np.asarray(rows, np.float64).T
    return lambda weights: np.exp(np.minimum(weights @ lost / (weights @ tokens), LARGEST_EXPONENT))


def pearson(rows: Sequence[tuple[float, float]]) -> Value:
    """Pearson's correlation of predictions and targets; 0 where one of them is constant."""
    predicted, target = np.asarray(rows, np.float64).T
    return lambda weights: _correlation(weights, predicted[None], target[None])


def spearman(rows: Sequence[tuple[float, float]]) -> Value:
    """Spearman's correlation, equal values sharing the mean of their ranks; 0 where one side is constant."""
    predicted, target = np.asarray(rows, np.float64).T
    return lambda weights: _correlation(weights, ranks(predicted, weights), ranks(target, weights))


def f1(rows: Sequence[tuple[Array, Array]], average: str) -> Value:
    """F1 from each sample's labels and predictions, flat int64 arrays of one length.

    Classes that occur neither as a label nor as a prediction do not count in the macro average.
    """
    sample = np.concatenate([np.full(len(labels), i) for i, (labels, _) in enumerate(rows)])
    labels, predicted = (np.concatenate([row[side] for row in rows]) for side in (0, 1))
    classes = int(max(labels.max(initial=1), predicted.max(initial=1))) + 1
    right = labels == predicted

    def one(weights: Array) -> float:
        each = weights[sample]
        hit = np.bincount(labels[right], each[right], classes)
        asked, said = np.bincount(labels, each, classes), np.bincount(predicted, each, classes)
        return _averaged(hit, asked + said, average)

    return lambda weights: np.array([one(row) for row in weights])


def ranks(values: Array, weights: Array) -> Array:
    """Each value's rank among as many copies as its weight says, equal values sharing their mean rank.

    Args:
        values: [samples] float64.
        weights: [resamples, samples].
    """
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    counts = np.add.reduceat(weights[:, order], starts, axis=1)
    above: Array = np.cumsum(counts, axis=1) - (counts - 1) / 2
    return above[:, place]


def mse(output: Array, target: Array) -> float:
    """Mean squared error of one sample."""
    return float(np.mean(np.square(output - target)))


def mae(output: Array, target: Array) -> float:
    """Mean absolute error of one sample."""
    return float(np.mean(np.abs(output - target)))


def psnr(output: Array, target: Array, data_range: float) -> float:
    """Peak signal to noise ratio of one sample in dB; 200 for equal arrays."""
    error = mse(output, target)
    return min(EXACT_DB, 10 * float(np.log10(data_range**2 / error))) if error else EXACT_DB


def cosine(a: Array, b: Array) -> float:
    """The cosine of two flat arrays; 0 where one of them is 0."""
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0


def _averaged(hit: Array, total: Array, average: str) -> float:
    if average == "micro":
        return 2 * float(hit.sum()) / max(float(total.sum()), 1e-300)
    scores: Any = 2 * hit / np.maximum(total, 1e-300)
    return float(scores[1]) if average == "binary" else float(scores[total > 0].mean())


def _correlation(weights: Array, a: Array, b: Array) -> Array:
    (a, length), (b, other) = _centred(weights, a), _centred(weights, b)
    spread = length * other
    together = (weights * a * b).sum(1)
    return np.where(spread > 0, together / np.where(spread > 0, spread, 1), 0.0)


def _centred(weights: Array, values: Array) -> tuple[Array, Array]:
    """Deviations from the mean and their length; 0 where they are the rounding errors of equal values."""
    centred = values - (weights * values).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
    length, size = (np.sqrt((weights * np.square(each)).sum(1)) for each in (centred, values))
    return centred, np.where(length > _ROUNDING * size, length, 0.0)
