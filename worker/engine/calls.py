"""What the engine can be asked, by name: a table of requests and functions, with JSON in and out."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter

from app.domain.report import DatasetSummary, Examination, Figures, Size
from worker.engine import kernels, methods
from worker.engine.calibrate import collect, load_statistics, save_statistics
from worker.engine.data import open_dataset
from worker.engine.data.bind import Session, inputs_of
from worker.engine.data.dataset import Sample, summarize
from worker.engine.data.feeds import Feed, read_feeds, real_feeds, synthetic_feeds, write_feeds
from worker.engine.data.source import Source, Sources, choose_sources, open_source
from worker.engine.evaluate.baseline import Evaluated, Question, evaluate_baseline
from worker.engine.evaluate.candidate import Loss, evaluate_candidate
from worker.engine.evaluate.fidelity import exact
from worker.engine.evaluate.reference import Reference
from worker.engine.evaluate.run import Progress, run, within
from worker.engine.examine import examine
from worker.engine.latency import measure_round
from worker.engine.load import model_bytes, open_session
from worker.engine.memory import measure_memory
from worker.engine.prepare import prepare_model
from worker.engine.requests import (
    Build,
    Built,
    ExamineDataset,
    ExamineModel,
    MeasureMemory,
    MeasureRound,
    Prepare,
    Prepared,
)

MODEL = "model.onnx"
STATISTICS = "statistics.npz"
REFERENCE = "reference.npz"
FEEDS = "feeds.npz"
NO_DATA = (
    "accuracy: there is no data to measure it on; send samples with labels",
    "fidelity: there is no data to compare outputs on; send samples",
)
SYNTHETIC = "feeds: inputs are made up (synthetic), for there is no data; they serve latency and memory only"


def examine_model(request: ExamineModel, _progress: Progress) -> Examination:
    """What is in an uploaded model."""
    return examine(request.model)


def examine_dataset(request: ExamineDataset, _progress: Progress) -> DatasetSummary:
    """What is in an uploaded dataset; reading it finds what is broken."""
    return summarize(open_dataset(request.data))


def prepare(request: Prepare, progress: Progress) -> Prepared:
    """Prepare the float model once for all recipes, split the data, evaluate the baseline, and calibrate.

    The baseline is the uploaded file, untouched.

    Raises:
        Refused: the data does not fit the model, or the model does not run on it.
    """
    session = open_session(request.model)
    progress(0.0, "reading the data")
    sources = choose_sources(request, inputs_of(session))
    feeds, batch = _feeds(session, sources.first(), request)
    write_feeds(request.out / FEEDS, feeds)
    progress(0.1, "preparing the model")
    notes = prepare_model(request.model, request.out / MODEL, feeds, request.shapes)
    evaluated = _evaluate(session, sources.evaluation, request, within(progress, 0.2, 0.6))
    _calibrate(sources.calibration, request, within(progress, 0.6, 1.0))
    return Prepared(
        model=MODEL,
        statistics=STATISTICS if sources.calibration else None,
        reference=REFERENCE if evaluated else None,
        feeds=FEEDS,
        metric=evaluated.metric if evaluated else None,
        calibration_samples=len(sources.calibration.indices) if sources.calibration else 0,
        evaluation_samples=evaluated.samples if evaluated else 0,
        synthetic_feeds=sources.first() is None,
        baseline=_baseline(request, evaluated, sources),
        notes=notes,
        batch=batch,
    )


def build(request: Build, progress: Progress) -> Built:
    """Quantize the prepared model by one recipe, and compare the result with the float model's outputs.

    Raises:
        Refused: the recipe cannot be applied, or the result does not run or gives NaN.
    """
    statistics = load_statistics(request.statistics) if request.statistics else None
    out = request.out / MODEL
    progress(0.0, "quantizing")
    quantized = methods.quantize(request.model, out, request.recipe, request.isa, statistics)
    loss, notes = _loss(request, within(progress, 0.1, 1.0))
    size = model_bytes(out)
    figures = Figures(
        size=Size(size, size / model_bytes(request.original)),
        accuracy=loss.accuracy if loss else None,
        fidelity=loss.fidelity if loss else None,
        kernels=kernels.kernels(out),
        requires=kernels.requires(out),
        notes=notes,
    )
    return Built(model=MODEL, recipe=quantized.recipe, figures=figures, reasons=quantized.reasons)


def run_call(name: str, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Do one call by name, from JSON to JSON.

    Args:
        name: a key of `CALLS`.
        arguments: the request's fields.
        progress: told the share that is done, and what is going on.

    Raises:
        Refused: see the call.
        KeyError: there is no call of this name.
        pydantic.ValidationError: the arguments are none of this call.
    """
    request_type, function = CALLS[name]
    request = TypeAdapter(request_type).validate_python(dict(arguments))
    answer = function(request, progress)
    result: dict[str, Any] = TypeAdapter(type(answer)).dump_python(answer, mode="json")
    return result


def _feeds(session: Session, source: Source | None, request: Prepare) -> tuple[list[Feed], int]:
    if source:
        return real_feeds(source, request.batch)

    def attempt(inputs: Sample) -> object:
        return run(session, [output.name for output in session.get_outputs()], inputs)

    return synthetic_feeds(request.model, session, request.shapes, request.batch, attempt), request.batch


def _evaluate(
    session: Session, source: Source | None, request: Prepare, progress: Progress
) -> Evaluated | None:
    if not source:
        return None
    question = Question(request.metric, request.output)
    return evaluate_baseline(session, source, request.out / REFERENCE, question, progress)


def _calibrate(source: Source | None, request: Prepare, progress: Progress) -> None:
    if source:
        statistics = collect(
            request.out / MODEL,
            source.feeds(),
            progress=lambda share: progress(share, "calibrating"),
            total=source.run_count(),
        )
        save_statistics(statistics, request.out / STATISTICS)


def _baseline(request: Prepare, evaluated: Evaluated | None, sources: Sources) -> Figures:
    notes = sources.notes + (evaluated.notes if evaluated else NO_DATA)
    return Figures(
        size=Size(model_bytes(request.model), 1.0),
        accuracy=evaluated.accuracy if evaluated else None,
        fidelity=exact(evaluated.samples) if evaluated else None,
        kernels=kernels.kernels(request.model),
        requires=kernels.requires(request.model),
        notes=notes if sources.first() else (*notes, SYNTHETIC),
    )


def _loss(request: Build, progress: Progress) -> tuple[Loss | None, tuple[str, ...]]:
    session = open_session(request.out / MODEL)
    if not (request.reference and request.evaluation):
        if request.feeds:  # a candidate that cannot run is refused here and not first when it is timed
            run(session, [output.name for output in session.get_outputs()], read_feeds(request.feeds)[0])
        return None, NO_DATA
    reference = Reference(request.reference)
    source = open_source(request.evaluation, inputs_of(session), reference.order)
    loss = evaluate_candidate(session, source, reference, progress)
    return loss, loss.notes


CALLS: dict[str, tuple[type[Any], Callable[[Any, Progress], Any]]] = {
    "examine_model": (ExamineModel, examine_model),
    "examine_dataset": (ExamineDataset, examine_dataset),
    "prepare": (Prepare, prepare),
    "build": (Build, build),
    "measure_round": (MeasureRound, lambda request, _progress: measure_round(request)),
    "measure_memory": (MeasureMemory, lambda request, _progress: measure_memory(request)),
}
