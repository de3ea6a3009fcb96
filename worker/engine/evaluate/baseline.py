"""Evaluate the float model once: its outputs become the reference of every candidate."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from app.domain.errors import FieldError, Refused
from app.domain.report import Accuracy
from worker.engine.data.bind import Session
from worker.engine.data.source import Source
from worker.engine.evaluate.accuracy import Pairs, check_labels, scores, suspicion
from worker.engine.evaluate.progress import Progress
from worker.engine.evaluate.reference import MAX_BYTES, Labelled, ReferenceWriter
from worker.engine.evaluate.run import Outputs, outputs

AUTO = "auto"
AUTO_METRIC = "top1"
UNLABELLED = (
    "accuracy: the data has no labels; fidelity says how close outputs stay to the float model's, "
    "which is not accuracy"
)


@dataclass(frozen=True)
class Question:
    """What to ask of the outputs: metric (auto, top1 or top5) and output (None: all that are float)."""

    metric: str = AUTO
    output: str | None = None


@dataclass(frozen=True)
class Evaluated:
    """The float model on the evaluation samples."""

    metric: str | None
    accuracy: Accuracy | None
    samples: int
    notes: tuple[str, ...]


def evaluate_baseline(
    session: Session,
    source: Source,
    reference: Path,
    question: Question,
    progress: Progress,
) -> Evaluated:
    """Run the float model over the samples, write the reference, and count its accuracy.

    Args:
        session: the uploaded model, untouched.
        source: the evaluation samples.
        reference: where the outputs go; samples stop when it reaches 1 GiB, and a note says so.
        question: which metric, on which output.
        progress: told about each sample.

    Raises:
        Refused: `nan_output`, `labels_missing`, `labels_out_of_range`, `output_required`, `unknown_output` or
            `metric_mismatch`.
    """
    stream = outputs(session, source)
    first = next(stream)
    names = compared(first, question.output)
    labelled, notes = _labelled(first, names, _labels(source), question)
    with ReferenceWriter(reference) as writer:
        pairs = _write(chain([first], stream), names, labelled, writer, progress, len(source.indices))
        samples = writer.finish(names, source.indices, labelled, notes)
    notes += _shortened(samples, len(source.indices))
    if not pairs:
        return Evaluated(None, None, samples, tuple(notes))
    accuracy = replace(pairs.accuracy(), ci=(0.0, 0.0))
    warning = suspicion(accuracy, first[labelled.output].size) if labelled else None
    return Evaluated(pairs.metric, accuracy, samples, (*notes, *([warning] if warning else [])))


def compared(found: Outputs, output: str | None) -> list[str]:
    """The outputs to compare: the one asked for, or all that are float.

    Raises:
        Refused: `unknown_output` or `no_float_output`.
    """
    floats = [name for name, array in found.items() if array.dtype.kind == "f"]
    if output is not None and output not in floats:
        detail = f"The model has no float output {output!r}; it has {', '.join(floats) or 'none'}."
        errors = (FieldError("/evaluation/output", detail),)
        raise Refused("unknown_output", detail, errors=errors)
    if not floats:
        detail = "The model has no float output, so there is nothing to compare; send it without data."
        raise Refused("no_float_output", detail)
    return [output] if output is not None else floats


def _labels(source: Source) -> list[int | None] | None:
    every = source.dataset.labels
    labels = None if every is None else [every[index] for index in source.indices]
    return labels if labels and any(label is not None for label in labels) else None


def _labelled(
    first: Outputs, names: Sequence[str], labels: list[int | None] | None, question: Question
) -> tuple[Labelled | None, list[str]]:
    """What accuracy needs, or a note why there is none; a metric that was asked for is never skipped."""
    try:
        known = _known(labels)
        output = _scores_output(first, names)
        if question.metric != AUTO:
            _check_complete(known)
    except Refused as refusal:
        if question.metric != AUTO:
            raise Refused(
                refusal.refusal, _asked(refusal, question.metric), errors=refusal.errors
            ) from refusal
        return None, [refusal.detail]
    check_labels(known, first[output].size)
    metric = AUTO_METRIC if question.metric == AUTO else question.metric
    missing = known.count(None)
    note = f"accuracy: {missing} of {len(known)} samples have no label and count for fidelity only"
    return Labelled(metric, output, known), [note] if missing else []


def _known(labels: list[int | None] | None) -> list[int | None]:
    if labels is None:
        raise Refused("labels_missing", UNLABELLED)
    return labels


def _asked(refusal: Refused, metric: str) -> str:
    return f"The metric {metric} cannot be measured: {refusal.detail.removeprefix('accuracy: ')}."


def _scores_output(first: Outputs, names: Sequence[str]) -> str:
    if len(names) > 1:
        listed = ", ".join(names)
        detail = f"accuracy: the model has several float outputs ({listed}); name one as evaluation.output"
        raise Refused("output_required", detail, errors=(FieldError("/evaluation/output", detail),))
    if scores(first[names[0]]) is None:
        shape = list(first[names[0]].shape)
        detail = f"accuracy: the output {names[0]} has the shape {shape}, which holds no score for each class"
        raise Refused("metric_mismatch", detail, errors=(FieldError("/evaluation/metric", detail),))
    return names[0]


def _check_complete(labels: Sequence[int | None]) -> None:
    if None in labels:
        missing = labels.index(None)
        detail = f"accuracy: {list(labels).count(None)} samples have no label, the first is sample {missing}"
        raise Refused("labels_missing", detail)


def _write(
    stream: Iterable[Outputs],
    names: Sequence[str],
    labelled: Labelled | None,
    writer: ReferenceWriter,
    progress: Progress,
    total: int,
) -> Pairs | None:
    pairs = Pairs(labelled.metric) if labelled else None
    for position, found in enumerate(stream):
        room = writer.add([found[name] for name in names])
        label = labelled.labels[position] if labelled else None
        if pairs and labelled and label is not None:
            pairs.add(label, found[labelled.output], found[labelled.output])
        progress((position + 1) / total, "evaluating the float model")
        if not room:
            break
    return pairs if pairs and pairs.samples else None


def _shortened(samples: int, asked: int) -> list[str]:
    if samples == asked:
        return []
    return [
        f"evaluation: {samples} of {asked} samples, since their float outputs fill {MAX_BYTES / 2**30:g} GiB"
    ]
