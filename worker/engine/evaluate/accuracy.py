"""Top-k accuracy, counted in pairs: each sample under the float model and under the candidate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.domain.errors import FieldError, Refused
from app.domain.intervals import drop_interval
from app.domain.report import Accuracy
from worker.engine.data.dataset import Array

TOP = {"top1": 1, "top5": 5}
TWO_SIDED_95 = 0.025


@dataclass
class Pairs:
    """Running counts over samples, from `add` to `accuracy`."""

    metric: str
    right: int = 0
    baseline_right: int = 0
    lost: int = 0
    gained: int = 0
    samples: int = 0

    def add(self, label: int, baseline: Array, candidate: Array) -> None:
        """Count one sample; both outputs are [C] scores in any number of unit axes."""
        was = in_top(baseline, label, TOP[self.metric])
        now = in_top(candidate, label, TOP[self.metric])
        self.samples += 1
        self.right += now
        self.baseline_right += was
        self.lost += was and not now
        self.gained += now and not was

    def accuracy(self) -> Accuracy:
        """The shares, the drop (above 0 is worse) and its two-sided 95 % score interval."""
        n = self.samples
        interval = drop_interval(self.lost, self.gained, n, TWO_SIDED_95)
        drop = (self.lost - self.gained) / n
        return Accuracy(
            self.metric, self.right / n, self.baseline_right / n, drop, interval, n, self.lost, self.gained
        )


def scores(output: Array) -> Array | None:
    """One sample's class scores, [C] with C of at least 2; None when the output is of another kind."""
    squeezed = np.squeeze(output)
    return squeezed if squeezed.ndim == 1 and squeezed.size > 1 else None


def top1(output: Array) -> int | None:
    """The best class, the lowest index on ties; None when the output holds no class scores."""
    found = scores(output)
    return None if found is None else int(found.argmax())


def in_top(output: Array, label: int, k: int) -> bool:
    """Whether fewer than k classes come before the label; equal scores count by index."""
    found = np.squeeze(output)
    mine = found[label]
    return int((found > mine).sum() + (found[:label] == mine).sum()) < k


def check_labels(labels: Sequence[int | None], classes: int) -> None:
    """Refuse labels that are no class of the model.

    Raises:
        Refused: `labels_out_of_range`, naming the first such sample.
    """
    wrong = [(i, label) for i, label in enumerate(labels) if label is not None and not 0 <= label < classes]
    if wrong:
        index, label = wrong[0]
        detail = (
            f"Sample {index} has the label {label}, but the model tells {classes} classes apart: "
            f"labels go from 0 to {classes - 1} ({len(wrong)} of {len(labels)} are outside)."
        )
        raise Refused("labels_out_of_range", detail, errors=(FieldError(f"/labels/{index}", detail),))


def suspicion(accuracy: Accuracy, classes: int) -> str | None:
    """A warning when the float model does hardly better than chance: the preprocessing is probably wrong.

    The limit is twice chance, or with few classes half-way between chance and perfect.
    """
    chance = min(TOP[accuracy.metric] / classes, 1.0)
    if chance >= 1 or accuracy.baseline >= min(2 * chance, (1 + chance) / 2):
        return None
    return (
        f"preprocessing_suspect: the float model gets {accuracy.baseline:.1%} {accuracy.metric} on "
        f"{accuracy.samples} samples, where guessing gets {chance:.1%}; check mean, std, scale, color, labels"
    )
