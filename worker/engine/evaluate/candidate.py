"""Evaluate a candidate against the float model's stored outputs, sample by sample."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from app.domain.against import Outcomes
from app.domain.errors import Refused
from app.domain.flips import Compared, Flips
from app.domain.note import Note
from app.domain.report import Accuracy, Fidelity
from worker.engine.data.bind import Session
from worker.engine.data.source import Source
from worker.engine.evaluate.fidelity import Closeness, headline
from worker.engine.evaluate.flips import Answers
from worker.engine.evaluate.judge import Judge
from worker.engine.evaluate.progress import Progress
from worker.engine.evaluate.reference import LIKELIHOODS, Reference
from worker.engine.evaluate.run import outputs
from worker.engine.evaluate.tokens import of_sample, pairs_of


@dataclass(frozen=True)
class Loss:
    """What a candidate loses; accuracy is null without labels, outcomes where nothing is right or wrong."""

    accuracy: Accuracy | None
    fidelity: Fidelity
    notes: tuple[Note, ...]
    flips: Flips
    predictions: tuple[Compared, ...]
    outcomes: Outcomes | None


def evaluate_candidate(session: Session, source: Source, reference: Reference, progress: Progress) -> Loss:
    """Run a candidate over the reference's samples.

    Args:
        session: the candidate.
        source: the evaluation samples in the reference's order.
        reference: the float model's outputs.
        progress: told about each sample.

    Raises:
        Refused: `nan_output` or `output_changed`.
    """
    closeness = {name: Closeness(name) for name in reference.names if name != LIKELIHOODS}
    labelled = reference.labelled
    judge = Judge(source.dataset, labelled.question) if labelled else None
    shown = labelled.output if labelled else reference.names[0]
    answers = Answers(source.dataset, labelled.metric if labelled else None, shown)
    groups, total = source.dataset.groups, len(reference.order)
    for position, (float_outputs, found) in enumerate(zip(reference, outputs(session, source), strict=True)):
        index = reference.order[position]
        group = groups[index] if groups else None
        _check_names(closeness, found)
        mine = of_sample(source.dataset, index, found, labelled)
        for name, running in closeness.items():
            for was, now in pairs_of(labelled, float_outputs[name], mine[name]):
                running.add(was, now, group)
        label = labelled.labels[position] if labelled else None
        if float_outputs[shown].size:
            answers.add(index, label, float_outputs[shown], mine[shown])
        if judge and labelled:
            judge.add(index, label, labelled.answer(float_outputs), labelled.answer(mine))
        progress((position + 1) / total, "evaluating the candidate")
    fidelity, notes = headline(closeness)
    return Loss(
        accuracy=judge.accuracy() if judge else None,
        fidelity=fidelity,
        notes=(*reference.notes, *notes),
        flips=answers.flips(),
        predictions=answers.predictions(),
        outcomes=answers.outcomes(),
    )


def _check_names(names: Iterable[str], found: Collection[str]) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        listed = ", ".join(found)
        detail = f"The candidate has no output {missing[0]!r}, only {listed}; names must stay as they were."
        raise Refused("output_changed", detail)
