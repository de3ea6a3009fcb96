"""The model's class for each label of the data, as `evaluation.label_map` gives it."""

from collections.abc import Mapping

import numpy as np

from app.domain.errors import FieldError, Refused
from worker.engine.data.dataset import Array, Dataset, class_name

LEFT_OUT = -1


def class_in_map(dataset: Dataset, label: float, label_map: Mapping[str, int]) -> int:
    """The class of one label; -1: it is to be left out.

    Raises:
        Refused: `label_unmapped`, the map does not have it.
    """
    number = int(label) if label == int(label) else label
    name = class_name(dataset.classes, int(label)) or str(number)
    if name not in label_map:
        detail = f"The label {name!r} is not in evaluation.label_map; give its class, or -1 to leave it out."
        raise Refused("label_unmapped", detail, errors=(FieldError("/evaluation/label_map", detail),))
    return label_map[name]


def classes_in_map(dataset: Dataset, labels: Array, label_map: Mapping[str, int]) -> Array:
    """The same for labels of any shape, int64."""
    distinct, places = np.unique(labels, return_inverse=True)
    classes = [class_in_map(dataset, label.item(), label_map) for label in distinct]
    return np.array(classes, np.int64)[places].reshape(labels.shape)
