"""Mean intersection over union of segmentation masks, counted over all positions of all samples."""

from collections.abc import Sequence

import numpy as np

from worker.engine.data.dataset import Array
from worker.engine.evaluate.metrics import Value


def counts(labels: Array, predicted: Array, classes: int) -> Array:
    """What one sample adds, [3, classes] int64: positions right, labelled and predicted of each class.

    Args:
        labels: [positions] int64.
        predicted: [positions] int64.
        classes: how many there are.
    """
    right = labels[labels == predicted]
    return np.stack([np.bincount(found, minlength=classes) for found in (right, labels, predicted)])


def miou(rows: Sequence[Array]) -> Value:
    """The mean over classes; those that are neither labelled nor predicted do not count."""
    right, labelled, predicted = np.stack(rows, axis=1).astype(np.float64)

    def value(weights: Array) -> Array:
        both = weights @ right
        union = weights @ (labelled + predicted) - both
        share = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
        return np.asarray(share.sum(1) / np.maximum((union > 0).sum(1), 1))

    return value
