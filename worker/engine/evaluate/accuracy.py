"""Class scores: the best class, whether a label is among the top k, and which labels there can be."""

import math
from collections.abc import Sequence

import numpy as np

from app.domain.errors import FieldError, Refused
from app.domain.job import PERPLEXITY
from app.domain.note import Note
from app.domain.report import Accuracy
from worker.engine.data.dataset import Array

TOP = {"top1": 1, "top5": 5}
TWO_SIDED_95 = 0.025
WEAK = {  # what hardly tells from chance, and what to look at then
    "pearson": (0.2, "check output, pool, tokenizer and scores"),
    "spearman": (0.2, "check output, pool, tokenizer and scores"),
    "map": (0.05, "check decoding, preprocess and the order of classes"),
    "map50": (0.1, "check decoding, preprocess and the order of classes"),
    "miou": (0.1, "check preprocess and the order of classes"),
}


def scores(output: Array) -> Array | None:
    """One sample's class scores, [C] with C of at least 2; None when the output is of another kind."""
    squeezed = np.squeeze(output)
    return squeezed if squeezed.ndim == 1 and squeezed.size > 1 else None


def class_scores(output: Array, *, logits: bool) -> Array:
    """Class scores, [C]; the only score of a binary classifier becomes those of "no" and "yes".

    Args:
        output: [C] in any number of unit axes.
        logits: whether a single score means yes above 0, else above 0.5.
    """
    flat = output.reshape(-1)
    return flat if flat.size > 1 else np.array([0.0 if logits else 0.5, flat[0]])


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


def suspicion(accuracy: Accuracy, classes: int) -> Note | None:
    """A warning when the float model does hardly better than chance: the preprocessing is probably wrong.

    The limit is twice chance, or with few classes half-way between chance and perfect; half the
    vocabulary for perplexities. Other metrics have a limit each.
    """
    if accuracy.metric == PERPLEXITY and accuracy.baseline > classes / 2:
        detail = (
            f"the float model's perplexity is {accuracy.baseline:.4g}, where guessing among {classes} tokens "
            f"gets {classes}; check tokenizer, output and state"
        )
        return Note("preprocessing_suspect", detail)
    limit, look = WEAK.get(accuracy.metric, (-math.inf, ""))
    if accuracy.baseline < limit:
        detail = (
            f"the float model's {accuracy.metric} is {accuracy.baseline:.2f} on "
            f"{accuracy.samples} samples; {look}"
        )
        return Note("preprocessing_suspect", detail)
    chance = min(TOP.get(accuracy.metric, classes) / classes, 1.0)
    if chance >= 1 or accuracy.baseline >= min(2 * chance, (1 + chance) / 2):
        return None
    detail = (
        f"the float model gets {accuracy.baseline:.1%} {accuracy.metric} on "
        f"{accuracy.samples} samples, where guessing gets {chance:.1%}; check mean, std, scale, color, labels"
    )
    return Note("preprocessing_suspect", detail)
