"""What outputs are worth under a metric: noted sample by sample for both models, joined at the end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.domain.errors import FieldError, Refused
from app.domain.intervals import drop_interval, quantile_interval
from app.domain.job import PERPLEXITY, Evaluation
from app.domain.report import Accuracy
from worker.engine.data.dataset import Array, Dataset
from worker.engine.data.text import MASK
from worker.engine.evaluate import average_precision, metrics, overlap
from worker.engine.evaluate.accuracy import TOP, TWO_SIDED_95, class_scores, in_top
from worker.engine.evaluate.bootstrap import drop_quantiles, widened
from worker.engine.evaluate.boxes import BOX, class_count, detections
from worker.engine.evaluate.label_map import LEFT_OUT, classes_in_map
from worker.engine.evaluate.metrics import LESS_IS_BETTER, Value

Row = Any  # what a metric notes of one sample
TOKEN_AXES = 2
CORRELATIONS = {"pearson": metrics.pearson, "spearman": metrics.spearman}
OF_CLASSES: dict[str, Callable[[Array, Array, int], Row]] = {
    "f1": lambda labels, predicted, _classes: (labels, predicted),
    "miou": overlap.counts,
}
ERRORS: dict[str, Callable[[Array, Array], float]] = {
    "mse": metrics.mse,
    "mae": metrics.mae,
    "cosine": lambda output, target: metrics.cosine(output.ravel(), target.ravel()),
}


@dataclass
class Judge:
    """Both models' answers to the same samples, from `add` to `accuracy`.

    Args:
        dataset: where the targets are.
        question: the metric (not auto) and its options.
    """

    dataset: Dataset
    question: Evaluation
    baseline: list[Row] = field(default_factory=list)
    candidate: list[Row] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    first_of_pair: tuple[Array, Array] | None = None

    def add(self, index: int, label: int | None, baseline: Array, candidate: Array) -> None:
        """Note one sample; one that has no label, or one to be ignored, does not count.

        Args:
            index: its place in the dataset.
            label: its class for the model, if classes are asked for.
            baseline: the float model's output; of running text, log p of each scored token.
            candidate: the candidate's, of the same shape.

        Raises:
            Refused: `metric_mismatch` or `labels_out_of_range`, this sample's target does not fit its output.
        """
        if self.dataset.pairs:
            self._add_text(index, baseline, candidate)
            return
        rows = [self._row(index, label, output) for output in (baseline, candidate)]
        if rows[0] is not None:
            self._note(index, *rows)

    def accuracy(self) -> Accuracy | None:
        """Both values, the drop (above 0 is worse) and its interval; None when nothing counted."""
        if not self.baseline:
            return None
        before, now = self._value(self.baseline), self._value(self.candidate)
        value, baseline = self._alone(now), self._alone(before)
        sign = -1 if self.question.metric in LESS_IS_BETTER else 1
        lost, gained = self._flips()
        if self._is_plain_share() and lost is not None and gained is not None:
            ci = drop_interval(lost, gained, len(self.baseline), TWO_SIDED_95)
            return self._result(value, baseline, sign, ci, lost, gained, ())
        groups = np.unique(self.groups, return_inverse=True)[1]
        quantiles = drop_quantiles(before, now, groups)
        if sign < 0:
            quantiles = tuple(-quantile for quantile in reversed(quantiles))
        if lost is not None and gained is not None:
            quantiles = widened(quantiles, lost, gained, len(self.baseline))
        ci = quantile_interval(quantiles, TWO_SIDED_95)
        return self._result(value, baseline, sign, ci, lost, gained, quantiles)

    def own(self) -> Accuracy | None:
        """The float model against itself: no drop, no doubt; None when nothing counted."""
        if not self.baseline:
            return None
        value = self._alone(self._value(self.baseline))
        lost = 0 if self._flips()[0] is not None else None
        return self._result(value, value, 1, (0.0, 0.0), lost, lost, ())

    def _note(self, index: int, baseline: Row, candidate: Row) -> None:
        self.baseline.append(baseline)
        self.candidate.append(candidate)
        groups = None if self.dataset.pairs else self.dataset.groups
        self.groups.append(index if groups is None else groups[index])

    def _add_text(self, index: int, baseline: Array, candidate: Array) -> None:
        """Two texts make one row: the cosine of their vectors, and the score that the pair was given."""
        mask = self.dataset.sample(index).get(MASK)
        mine = pooled(baseline, mask, self.question.pool), pooled(candidate, mask, self.question.pool)
        if self.first_of_pair is None:
            self.first_of_pair = mine
            return
        pairs = zip(self.first_of_pair, mine, strict=True)
        score = float(self._target(index))
        self.first_of_pair = None
        self._note(index, *((_cosine(a, b), score) for a, b in pairs))

    def _row(self, index: int, label: int | None, output: Array) -> Row | None:
        metric = self.question.metric
        if metric in TOP:
            return self._hit(label, output)
        if metric == PERPLEXITY:
            return (-float(output.sum()), output.size) if output.size else None
        if metric in average_precision.METRICS:
            return self._matches(index, output)
        if metric in OF_CLASSES:
            answers = self._answers(index, label, output)
            return answers and OF_CLASSES[metric](*answers)
        return self._distance(index, output)

    def _distance(self, index: int, output: Array) -> Row:
        """How an output compares with numbers."""
        metric, target = self.question.metric, self._target(index)
        if metric in CORRELATIONS:
            return _single("the output", output, index), _single("the label", target, index)
        shaped = _shaped(output, target, index)
        if metric == "psnr":
            return metrics.psnr(shaped, target, self.question.data_range)
        return ERRORS[metric](shaped, target)

    def _hit(self, label: int | None, output: Array) -> float | None:
        if label is None:
            return None
        scores = class_scores(output, logits=self.question.logits)
        return float(in_top(scores, label, TOP[self.question.metric]))

    def _matches(self, index: int, output: Array) -> average_precision.Matches:
        decoding = self.question.decoding
        assert decoding is not None  # noqa: S101 - settled with the question
        assert self.dataset.targets is not None  # noqa: S101 - the same
        found = detections(output, decoding, logits=self.question.logits)
        rows = average_precision.objects(np.asarray(self.dataset.targets[index]), index)
        rows[:, BOX], counted = self._classes(rows[:, BOX])
        return average_precision.matches(found, rows[counted], class_count(output, decoding), index)

    def _answers(self, index: int, label: int | None, output: Array) -> tuple[Array, Array, int] | None:
        """Labels and predictions of one sample, flat, and how many classes there are.

        There is one of each, or one for each position.
        """
        if self.dataset.targets is None:
            if label is None:
                return None
            scores = class_scores(output, logits=self.question.logits)
            return np.array([label]), np.array([scores.argmax()]), scores.size
        labels = np.squeeze(np.asarray(self.dataset.targets[index]))
        predicted, classes = _classes_at(output, labels, index, logits=self.question.logits)
        counted = (labels != self.question.ignore_label) & ((labels >= 0) | (self.question.metric != "miou"))
        labels, in_map = self._classes(labels[counted].astype(np.int64))
        labels, predicted = labels[in_map], predicted[counted][in_map].astype(np.int64)
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            detail = (
                f"Sample {index} has labels from {labels.min()} to {labels.max()}; "
                f"the model's go to {classes - 1}."
            )
            raise Refused("labels_out_of_range", detail, errors=(FieldError(f"/labels/{index}", detail),))
        return (labels, predicted, classes) if labels.size else None

    def _classes(self, labels: Array) -> tuple[Array, Array]:
        """The model's class of each label, and which of them count."""
        if not self.question.label_map:
            return labels, np.ones(labels.shape, bool)
        classes = classes_in_map(self.dataset, labels, self.question.label_map)
        return classes, classes != LEFT_OUT

    def _target(self, index: int) -> Array:
        """The sample's numbers, float64 without unit axes; class numbers count as numbers here."""
        if self.dataset.targets is not None:
            return np.squeeze(np.asarray(self.dataset.targets[index], np.float64))
        assert self.dataset.labels is not None  # noqa: S101 - chosen only with labels
        return np.asarray(self.dataset.labels[index], np.float64)

    def _value(self, rows: Sequence[Row]) -> Value:
        if self.question.metric in CORRELATIONS:
            return CORRELATIONS[self.question.metric](rows)
        if self.question.metric == "f1":
            return metrics.f1(rows, self.question.average)
        if self.question.metric == PERPLEXITY:
            return metrics.perplexity(rows)
        if self.question.metric == "miou":
            return overlap.miou(rows)
        if self.question.metric in average_precision.METRICS:
            return average_precision.mean_average_precision(rows, self.question.metric)
        return metrics.mean(rows)

    def _alone(self, value: Value) -> float:
        return float(value(np.ones((1, len(self.baseline))))[0])

    def _is_plain_share(self) -> bool:
        return self.question.metric in TOP and self.dataset.groups is None

    def _flips(self) -> tuple[int | None, int | None]:
        """How many answers went wrong and how many right; None where answers are neither."""
        if self.question.metric in TOP:
            pairs = list(zip(self.baseline, self.candidate, strict=True))
            return sum(was > now for was, now in pairs), sum(now > was for was, now in pairs)
        if self.question.metric != "f1" or self.dataset.targets is not None:
            return None, None
        right = [
            tuple(bool(row[0][0] == row[1][0]) for row in both)
            for both in zip(self.baseline, self.candidate, strict=True)
        ]
        return sum(was > now for was, now in right), sum(now > was for was, now in right)

    def _result(
        self,
        value: float,
        baseline: float,
        sign: int,
        ci: tuple[float, float],
        lost: int | None,
        gained: int | None,
        quantiles: tuple[float, ...],
    ) -> Accuracy:
        drop = sign * (baseline - value)
        samples = len(self.baseline)
        return Accuracy(
            self.question.metric, value, baseline, drop, ci, samples, lost, gained, quantiles=quantiles
        )


def pooled(output: Array, mask: Array | None, pool: str | None) -> Array:
    """One flat float64 vector of a text's output.

    Args:
        output: with or without a row for each token; unit axes do not count.
        mask: [tokens], 1 where there is text.
        pool: none, mean or cls; None is mean where there are rows of tokens.
    """
    rows = np.squeeze(output.astype(np.float64))
    if rows.ndim != TOKEN_AXES or pool == "none":
        return rows.ravel()
    if pool == "cls":
        first: Array = rows[0]
        return first
    weights = np.ones(len(rows)) if mask is None else np.zeros(len(rows))
    if mask is not None:
        weights[: len(mask)] = mask[: len(rows)]
    return np.asarray(weights @ rows / max(weights.sum(), 1.0))


def _cosine(a: Array, b: Array) -> float:
    if a.shape != b.shape:
        detail = (
            f"Two texts give vectors of {a.size} and {b.size} values; set evaluation.pool to mean or cls."
        )
        raise Refused("metric_mismatch", detail, errors=(FieldError("/evaluation/pool", detail),))
    return metrics.cosine(a, b)


def _single(what: str, values: Array, index: int) -> float:
    if values.size != 1:
        detail = (
            f"Of sample {index}, {what} has {values.size} values; a correlation needs one for each sample."
        )
        raise Refused("metric_mismatch", detail, errors=(FieldError("/evaluation/metric", detail),))
    return float(values.item())


def _shaped(output: Array, target: Array, index: int) -> Array:
    shaped = np.squeeze(output.astype(np.float64))
    if shaped.shape != target.shape:
        detail = (
            f"The label of sample {index} has the shape {list(target.shape)}, the output "
            f"{list(shaped.shape)} (axes of size 1 left out); they must agree for this metric."
        )
        raise Refused("metric_mismatch", detail, errors=(FieldError("/evaluation/metric", detail),))
    return shaped


def _classes_at(output: Array, labels: Array, index: int, *, logits: bool) -> tuple[Array, int]:
    """The best class at each position, and how many classes there are.

    Classes lie on the axis left over; without one, there is a score of class 1 at each position.
    """
    scores = np.squeeze(output)
    if scores.shape == labels.shape and labels.dtype.kind in "iu":
        return scores > (0 if logits else 0.5), 2
    axes = [a for a in range(scores.ndim) if scores.shape[:a] + scores.shape[a + 1 :] == labels.shape]
    if not axes or labels.dtype.kind not in "iu":
        detail = (
            f"The labels of sample {index} are {labels.dtype} {list(labels.shape)}, the output has the shape "
            f"{list(scores.shape)}; this metric needs an integer for each position."
        )
        raise Refused("metric_mismatch", detail, errors=(FieldError("/evaluation/metric", detail),))
    axis = axes[-1] if scores.ndim == TOKEN_AXES else axes[0]
    return scores.argmax(axis), scores.shape[axis]
