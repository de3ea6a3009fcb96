"""Evaluate the float model once: its outputs become the reference of every candidate."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from app.domain.errors import FieldError, Refused
from app.domain.job import PERPLEXITY, Evaluation
from app.domain.note import Note
from app.domain.report import Accuracy
from worker.engine.data.bind import Session
from worker.engine.data.dataset import Array
from worker.engine.data.source import Source
from worker.engine.evaluate.accuracy import suspicion
from worker.engine.evaluate.given import given_outputs
from worker.engine.evaluate.judge import Judge
from worker.engine.evaluate.progress import Progress
from worker.engine.evaluate.question import settle
from worker.engine.evaluate.reference import LIKELIHOODS, MAX_BYTES, Labelled, ReferenceWriter
from worker.engine.evaluate.run import Outputs, outputs
from worker.engine.evaluate.tokens import of_sample

FED_BACK = "{} is fed back, and judged by what it does to the outputs of the samples that follow"


@dataclass(frozen=True)
class Evaluated:
    """The float model on the evaluation samples."""

    metric: str | None
    accuracy: Accuracy | None
    samples: int
    notes: tuple[Note, ...]


def evaluate_baseline(
    session: Session,
    source: Source,
    reference: Path,
    question: Evaluation,
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
        Refused: `nan_output`, `unknown_output`, or what the question cannot be settled for.
    """
    stream = outputs(session, source)
    first = next(stream)
    fed_back = source.feedback.links if source.feedback else ()
    names = compared(first, question, fed_back)
    labelled, notes = settle(first, names, source, question)
    names = [labelled.output, LIKELIHOODS] if labelled and labelled.metric == PERPLEXITY else names
    with ReferenceWriter(reference) as writer:
        judge = _write(chain([first], stream), names, labelled, writer, progress, source)
        samples = writer.finish(names, source.indices, labelled, notes)
    notes += given_outputs(session, source)
    notes += [Note("outputs", FED_BACK.format(", ".join(fed_back)))] if fed_back else []
    notes += _shortened(samples, len(source.indices))
    accuracy = judge.own() if judge else None
    if accuracy is None or labelled is None:
        return Evaluated(None, None, samples, tuple(notes))
    warning = suspicion(accuracy, _classes(accuracy.metric, first[labelled.output]))
    return Evaluated(accuracy.metric, accuracy, samples, (*notes, *([warning] if warning else [])))


def compared(found: Outputs, question: Evaluation, fed_back: Collection[str] = ()) -> list[str]:
    """The outputs to compare: those asked for, or all that are float and are not fed back.

    What is fed back shows in the outputs of the samples that follow.

    Raises:
        Refused: `unknown_output` or `no_float_output`.
    """
    floats = [name for name, array in found.items() if array.dtype.kind == "f"]
    scores = question.decoding.scores if question.decoding else None
    asked = {"/evaluation/output": question.output, "/evaluation/decoding/scores": scores}
    for field, name in asked.items():
        if name is not None and name not in floats:
            detail = f"The model has no float output {name!r}; it has {', '.join(floats) or 'none'}."
            raise Refused("unknown_output", detail, errors=(FieldError(field, detail),))
    if not floats:
        detail = "The model has no float output, so there is nothing to compare; send it without data."
        raise Refused("no_float_output", detail)
    if question.output is not None:
        return [name for name in floats if name in asked.values()]
    return [name for name in floats if name not in fed_back] or floats


def _write(
    stream: Iterable[Outputs],
    names: Sequence[str],
    labelled: Labelled | None,
    writer: ReferenceWriter,
    progress: Progress,
    source: Source,
) -> Judge | None:
    judge = Judge(source.dataset, labelled.question) if labelled else None
    for position, found in enumerate(stream):
        index = source.indices[position]
        mine = of_sample(source.dataset, index, found, labelled)
        room = writer.add([mine[name] for name in names])
        if judge and labelled:
            output = labelled.answer(mine)
            judge.add(index, labelled.labels[position], output, output)
        progress((position + 1) / len(source.indices), "evaluating the float model")
        if not room:
            break
    return judge


def _classes(metric: str, output: Array) -> int:
    """How many things the model tells apart: every value is a score, or those of one token are."""
    return output.shape[-1] if metric == PERPLEXITY else output.size


def _shortened(samples: int, asked: int) -> list[Note]:
    if samples == asked:
        return []
    detail = f"{samples} of {asked} samples, since their float outputs fill {MAX_BYTES / 2**30:g} GiB"
    return [Note("evaluation", detail)]
