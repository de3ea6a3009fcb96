"""Which metric is asked of which output, and what its labels are; or why there is none."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from app.domain.binding import CHANNEL_COUNTS
from app.domain.detection import Decoding
from app.domain.errors import FieldError, Refused
from app.domain.job import PERPLEXITY, Evaluation, MetricName
from app.domain.note import Note
from worker.engine.data.bind import feed
from worker.engine.data.dataset import Array, Dataset, have_names
from worker.engine.data.running_text import PASSAGE, RunningText
from worker.engine.data.source import Source
from worker.engine.evaluate.accuracy import TOP, check_labels, scores
from worker.engine.evaluate.average_precision import METRICS as AVERAGE_PRECISIONS
from worker.engine.evaluate.bootstrap import AT_LEAST
from worker.engine.evaluate.judge import Judge
from worker.engine.evaluate.label_map import LEFT_OUT, class_in_map
from worker.engine.evaluate.reference import Labelled
from worker.engine.evaluate.run import Outputs
from worker.engine.evaluate.tokens import scored_rows

AUTO = "auto"
IMAGE_AXES, MASK_AXES, BOX_AXES = 4, 2, 2
BOX_NUMBERS = (5, 6)
UNLABELLED = (
    "accuracy: the data has no labels; fidelity says how close outputs stay to the float model's, "
    "which is not accuracy"
)


def settle(
    first: Outputs, names: Sequence[str], source: Source, question: Evaluation
) -> tuple[Labelled | None, list[Note]]:
    """What accuracy needs, or a note why there is none; a metric that was asked for is never skipped.

    Args:
        first: the float model's outputs of the first sample.
        names: the float outputs that are compared.
        source: the evaluation samples.
        question: what was asked.

    Raises:
        Refused: `labels_out_of_range`; and, when a metric was asked for, `labels_missing`, `output_required`,
            `metric_mismatch` or `too_few_samples`.
    """
    try:
        labelled = _labelled(first, names, source, question)
    except Refused as refusal:
        if question.metric != AUTO:
            detail = (
                f"The metric {question.metric} cannot be measured: "
                f"{refusal.detail.removeprefix('accuracy: ').removesuffix('.')}."
            )
            raise Refused(refusal.code, detail, errors=refusal.errors) from refusal
        if refusal.code in {"labels_out_of_range", "label_unmapped"}:
            raise
        return None, [Note("accuracy", refusal.detail.removeprefix("accuracy: "))]
    if isinstance(source.dataset, RunningText):
        return labelled, [Note("accuracy", source.dataset.described(source.indices))]
    missing = labelled.labels.count(None) if source.dataset.labels else 0
    detail = f"{missing} of {len(source.indices)} samples have no label and count for fidelity only"
    return labelled, [Note("accuracy", detail)] if missing else []


def _labelled(first: Outputs, names: Sequence[str], source: Source, question: Evaluation) -> Labelled:
    dataset = source.dataset
    running = isinstance(dataset, RunningText) and question.metric == AUTO
    if running or question.metric == PERPLEXITY:
        return _of_tokens(first, names, source, question)
    labels = _mapped(dataset, source.indices, question)
    if dataset.targets is None and not any(label is not None for label in labels):
        raise Refused("labels_missing", UNLABELLED)
    output = _output(names, question)
    found = first[output]
    metric = question.metric if question.metric != AUTO else _automatic(dataset, found, labels)
    _check_labels(metric, dataset, labels, found, asked=question.metric != AUTO)
    _check_count(metric, source, labels)
    settled = replace(question, metric=metric, output=output)
    if metric in AVERAGE_PRECISIONS:
        settled = replace(settled, decoding=_decoding(question, source))
    labelled = Labelled(metric, output, labels, settled)
    answer = labelled.answer(first)
    Judge(dataset, settled).add(source.indices[0], labels[0], answer, answer)
    return labelled


def _of_tokens(first: Outputs, names: Sequence[str], source: Source, question: Evaluation) -> Labelled:
    """Running text is its own label: each token is what the model should have said."""
    output = _output(names, question)
    if isinstance(source.dataset, RunningText):
        scored_rows(source.dataset, source.indices[0], first[output])
    else:
        raise _mismatch("it is of running text: txt files, or a table with preprocess.text.stride")
    labels: list[int | None] = [None] * len(source.indices)
    _check_count(PERPLEXITY, source, labels)
    return Labelled(PERPLEXITY, output, labels, replace(question, metric=PERPLEXITY, output=output))


def _automatic(dataset: Dataset, output: Array, labels: Sequence[int | None]) -> MetricName:
    if dataset.pairs:
        return "spearman"
    if dataset.targets is not None:
        return _of_targets(np.squeeze(np.asarray(dataset.targets[0])), np.squeeze(output))
    if output.size == 1 and not {0, 1, None} >= set(labels):
        return "mse"
    return "top1"


def _of_targets(target: Array, output: Array) -> MetricName:
    """Of arrays: masks have two axes, boxes are rows of five or six numbers."""
    if target.shape == output.shape or not target.shape:
        return "mse"
    if target.dtype.kind in "iu":
        return "miou" if target.ndim == MASK_AXES else "f1"
    return "map" if target.ndim == BOX_AXES and target.shape[1] in BOX_NUMBERS else "mse"


def _decoding(question: Evaluation, source: Source) -> Decoding:
    """What was declared, with the input's size.

    Raises:
        Refused: `decoding_missing`, or `metric_mismatch` where no input or several look like images.
    """
    if question.decoding is None:
        detail = "accuracy: the labels are boxes; say in evaluation.decoding how the output becomes boxes"
        raise Refused("decoding_missing", detail, errors=(FieldError("/evaluation/decoding", detail),))
    if question.decoding.size:
        return question.decoding
    given = feed(source.binding, [source.dataset.sample(source.indices[0])])
    sizes = [_height_and_width(array.shape) for array in given.values() if array.ndim == IMAGE_AXES]
    if len(sizes) != 1:
        raise _mismatch(f"{len(sizes)} inputs look like images; give evaluation.decoding.size")
    return replace(question.decoding, size=sizes[0])


def _height_and_width(shape: Sequence[int]) -> tuple[int, int]:
    """Of [N, C, H, W], or [N, H, W, C] where the last axis is as short as channels are."""
    last = shape[3] in CHANNEL_COUNTS and shape[1] not in CHANNEL_COUNTS
    return (shape[1], shape[2]) if last else (shape[2], shape[3])


def _output(names: Sequence[str], question: Evaluation) -> str:
    """The output that is judged; with scores of their own, it is the one of the boxes."""
    if question.decoding and question.decoding.scores:
        names = [name for name in names if name != question.decoding.scores]
    if len(names) != 1:
        listed = ", ".join(names)
        detail = f"accuracy: the model has several float outputs ({listed}); name one as evaluation.output"
        raise Refused("output_required", detail, errors=(FieldError("/evaluation/output", detail),))
    return names[0]


def _mapped(dataset: Dataset, indices: Sequence[int], question: Evaluation) -> list[int | None]:
    """The model's class for each sample; None where there is no label, or one to be ignored."""
    if dataset.labels is None:
        return [None] * len(indices)
    labels = [dataset.labels[index] for index in indices]
    labels = [None if label == question.ignore_label else label for label in labels]
    if not question.label_map:
        return labels
    classes = [
        LEFT_OUT if label is None else class_in_map(dataset, label, question.label_map) for label in labels
    ]
    return [None if one == LEFT_OUT else one for one in classes]


def _check_labels(
    metric: str, dataset: Dataset, labels: list[int | None], output: Array, *, asked: bool
) -> None:
    if metric in TOP or (metric == "f1" and dataset.targets is None):
        if dataset.labels is None:
            raise _mismatch("the labels are numbers, not classes; use mse, mae, psnr, pearson or spearman")
        if output.size > 1 and scores(output) is None:
            shape = list(output.shape)
            raise _mismatch(f"the output has the shape {shape}, which holds no score for each class")
        check_labels(labels, max(output.size, 2))
    elif dataset.targets is None and metric in {"miou", *AVERAGE_PRECISIONS}:
        wanted = "a mask" if metric == "miou" else "its boxes"
        raise _mismatch(f"the labels are classes of samples; {metric} needs {wanted} for each sample")
    elif dataset.targets is None and have_names(dataset.classes):
        raise _mismatch(f"the labels are names, which {metric} cannot compare; use top1, top5 or f1")
    elif dataset.targets is None:
        asked = True
    if asked and dataset.targets is None and None in labels:
        missing = [place for place, label in enumerate(labels) if label is None]
        detail = f"accuracy: {len(missing)} samples have no label, the first is sample {missing[0]}"
        raise Refused("labels_missing", detail)


def _mismatch(detail: str) -> Refused:
    return Refused(
        "metric_mismatch", f"accuracy: {detail}", errors=(FieldError("/evaluation/metric", detail),)
    )


def _check_count(metric: str, source: Source, labels: Sequence[int | None]) -> None:
    """Shares have an interval for any number of samples; a bootstrap has none to speak of for a few."""
    groups = source.dataset.groups
    if metric in TOP and groups is None:
        return
    is_labelled = source.dataset.targets is not None or metric == PERPLEXITY
    counted = [i for i, label in zip(source.indices, labels, strict=True) if is_labelled or label is not None]
    count = len(counted) if groups is None else len({groups[index] for index in counted})
    if count < AT_LEAST:
        what = "samples" if groups is None else _of_groups(source.dataset)
        detail = f"accuracy: {count} {what} are too few for an interval of {metric}; send at least {AT_LEAST}"
        raise Refused("too_few_samples", detail)


def _of_groups(dataset: Dataset) -> str:
    if isinstance(dataset, RunningText):
        return f"passages of {PASSAGE} windows"
    return "pairs" if dataset.pairs else "streams"
