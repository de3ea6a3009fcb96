"""What the candidates of one job share, and what each of them adds."""

from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from app.domain.errors import Refused
from app.domain.job import Evaluation
from app.domain.note import Note
from app.domain.recipe import Imported
from app.domain.report import Figures, RunsElsewhere, Size
from worker.engine import kernels, methods
from worker.engine.calibrate import collect, load_statistics, save_statistics
from worker.engine.choices.setting import Samples
from worker.engine.data.bind import Session, inputs_of
from worker.engine.data.dataset import Sample
from worker.engine.data.feeds import real_feeds, synthetic_feeds
from worker.engine.data.source import Source, Sources, choose_sources, open_source
from worker.engine.elsewhere.example import example
from worker.engine.elsewhere.tensorrt import tensorrt
from worker.engine.evaluate import bundled
from worker.engine.evaluate.baseline import Evaluated, evaluate_baseline
from worker.engine.evaluate.candidate import Loss, evaluate_candidate
from worker.engine.evaluate.faithful import fidelity_on, refuse_unfaithful
from worker.engine.evaluate.fidelity import exact
from worker.engine.evaluate.layers import layers_of
from worker.engine.evaluate.progress import Progress, within
from worker.engine.evaluate.reference import Reference
from worker.engine.evaluate.run import every_feed, run
from worker.engine.interface import float_view
from worker.engine.load import load_model, model_bytes
from worker.engine.methods.imported import bring_in
from worker.engine.prepare import prepare_model
from worker.engine.ready import Feed, read_feeds, write_feeds
from worker.engine.requests import Build, Built, Data, Prepare, Prepared
from worker.engine.requirements import requires
from worker.engine.session import open_session

MODEL = "model.onnx"
STATISTICS = "statistics.npz"
ORDER = "calibration.npy"
REFERENCE = "reference.npz"
FEEDS = "feeds.npz"
NO_DATA = (
    Note("accuracy", "there is no data to measure it on; send samples with labels"),
    Note("fidelity", "there is no data to compare outputs on; send samples"),
)
SYNTHETIC = Note(
    "feeds", "inputs are made up (synthetic), for there is no data; they serve latency and memory only"
)


class Against(Protocol):
    """What a candidate is held against; `Build` is one."""

    @property
    def original(self) -> Path:
        """The uploaded model: the size ratio is to this."""
        ...

    @property
    def reference(self) -> Path | None:
        """The float model's outputs, and the evaluation samples' order."""
        ...

    @property
    def feeds(self) -> Path | None:
        """A few ready inputs."""
        ...

    @property
    def evaluation(self) -> Data | None:
        """The samples."""
        ...


def prepare(request: Prepare, progress: Progress) -> Prepared:
    """Prepare the float model once for all recipes, split the data, evaluate the baseline, and calibrate.

    The baseline is the uploaded file, untouched.

    Raises:
        Refused: the data does not fit the model, or the model does not run on it.
    """
    session = open_session(request.model)
    progress(0.0, "reading the data")
    sources = _sources(session, request)
    ready, batch = _feeds(session, sources.first(), request)
    write_feeds(request.out / FEEDS, ready)
    progress(0.1, "preparing the model")
    notes = prepare_model(request.model, request.out / MODEL, ready, request.shapes)
    evaluated, told = _evaluate(session, sources, request, within(progress, 0.2, 0.6))
    calibrated = sources.calibration if request.reads_ranges else None
    _calibrate(session, calibrated, request, within(progress, 0.6, 1.0))
    return Prepared(
        model=MODEL,
        statistics=STATISTICS if calibrated else None,
        calibration_order=_keep_order(sources.calibration, request.out),
        reference=REFERENCE if evaluated else None,
        feeds=FEEDS,
        metric=evaluated.metric if evaluated else None,
        calibration_samples=len(sources.calibration.indices) if sources.calibration else 0,
        evaluation_samples=evaluated.samples if evaluated else 0,
        synthetic_feeds=sources.first() is None,
        baseline=_baseline(request, evaluated, sources, told),
        notes=notes,
        batch=batch,
    )


def build(request: Build, progress: Progress) -> Built:
    """Quantize the prepared model by one recipe, and compare the result with the float model's outputs.

    Raises:
        Refused: the recipe cannot be applied, the result does not run or gives NaN, or it is `unfaithful`.
    """
    out = request.out / MODEL
    progress(0.0, "quantizing")
    setting = _setting(request)
    quantized = _quantize(request, out, setting)
    figures, loss = evaluate(out, request, within(progress, 0.1, 0.9))
    feeds = read_feeds(request.feeds) if request.feeds else []
    refuse_unfaithful(quantized.recipe, loss.fidelity if loss else fidelity_on(request.original, out, feeds))
    progress(0.9, "comparing layers")
    found, notes = layers_of(request.model, out, quantized.recipe, setting, feeds)
    return Built(
        model=MODEL,
        recipe=quantized.recipe,
        figures=replace(figures, notes=(*figures.notes, *notes)),
        reasons=quantized.reasons,
        layers=found,
        flips=loss.flips if loss else None,
        outcomes=loss.outcomes if loss else None,
    )


def evaluate(candidate: Path, request: Against, progress: Progress) -> tuple[Figures, Loss | None]:
    """Everything about a candidate that needs no quiet host: size, loss, kernels and requirements.

    Raises:
        Refused: the candidate does not run or gives NaN.
    """
    session = open_session(candidate)
    loss = _loss(float_view(session), request, progress)
    size = model_bytes(candidate)
    feeds = read_feeds(request.feeds) if request.feeds else []
    figures = Figures(
        size=Size(size, size / model_bytes(request.original)),
        accuracy=loss.accuracy if loss else None,
        fidelity=loss.fidelity if loss else None,
        kernels=kernels.kernels(candidate),
        requires=requires(candidate),
        runs_elsewhere=_runs_elsewhere(candidate),
        example=example(candidate, session, feeds[0]) if feeds else None,
        notes=_notes(request, loss),
        predictions=loss.predictions if loss else (),
    )
    return figures, loss


def _notes(request: Against, loss: Loss | None) -> tuple[Note, ...]:
    if loss is None:
        return NO_DATA
    own = () if request.evaluation else (bundled.told(loss.fidelity.samples),)
    return (*own, *loss.notes)


def _sources(session: Session, request: Prepare) -> Sources:
    """What was sent; without data, what came with the model."""
    if request.calibration or request.evaluation:
        return choose_sources(request, inputs_of(session))
    source, notes = bundled.open_bundled(session, request.model, request.batch)
    return Sources(bundled=source, notes=notes)


def _feeds(session: Session, source: Source | None, request: Prepare) -> tuple[list[Feed], int]:
    if source:
        made, batch = real_feeds(source, request.batch)
        if source.feedback:
            return list(islice(every_feed(session, source), len(made))), batch
        return made, batch

    def attempt(inputs: Sample) -> object:
        return run(session, [output.name for output in session.get_outputs()], inputs)

    return synthetic_feeds(request.model, session, request.shapes, request.batch, attempt)


def _evaluate(
    session: Session, sources: Sources, request: Prepare, progress: Progress
) -> tuple[Evaluated | None, tuple[Note, ...]]:
    """The float model on what evaluates, and notes; what came with the model fails no job."""
    path = request.out / REFERENCE
    if sources.evaluation:
        found = evaluate_baseline(session, sources.evaluation, path, request.question, progress)
        return found, found.notes
    if not sources.bundled:
        return None, NO_DATA
    try:
        question = Evaluation(output=request.question.output)
        found = evaluate_baseline(session, sources.bundled, path, question, progress)
    except Refused as refusal:
        return None, (NO_DATA[0], Note("fidelity", f"not on {bundled.BUNDLED}: {refusal.detail}"))
    return found, found.notes


def calibration_samples(data: Data | None, order: Path | None, model: Path) -> Samples | None:
    """The calibration feeds of a prepared model, anew at each call; None without data."""
    if data is None or order is None:
        return None
    indices = np.load(order, allow_pickle=False).tolist()
    session = open_session(model)
    return partial(every_feed, session, open_source(data, inputs_of(session), indices))


def _setting(request: Build) -> methods.Setting:
    return methods.Setting(
        isa=request.isa,
        runtime=request.runtime,
        statistics=load_statistics(request.statistics) if request.statistics else None,
        samples=calibration_samples(request.calibration, request.calibration_order, request.model),
    )


def _quantize(request: Build, out: Path, setting: methods.Setting) -> methods.Quantized:
    if isinstance(request.recipe, Imported) and request.imported:
        reasons = bring_in(request.imported, request.original, out)
        return methods.Quantized(request.recipe, reasons)
    return methods.quantize(request.model, out, request.recipe, setting)


def _keep_order(source: Source | None, out: Path) -> str | None:
    if source is None:
        return None
    np.save(out / ORDER, np.asarray(source.indices, np.int64))
    return ORDER


def _calibrate(session: Session, source: Source | None, request: Prepare, progress: Progress) -> None:
    if source:
        statistics = collect(
            request.out / MODEL,
            every_feed(session, source),
            progress=lambda share: progress(share, "calibrating"),
            total=source.run_count(),
        )
        save_statistics(statistics, request.out / STATISTICS)


def _baseline(
    request: Prepare, evaluated: Evaluated | None, sources: Sources, told: tuple[Note, ...]
) -> Figures:
    notes = sources.notes + told
    return Figures(
        size=Size(model_bytes(request.model), 1.0),
        accuracy=evaluated.accuracy if evaluated else None,
        fidelity=exact(evaluated.samples) if evaluated else None,
        kernels=kernels.kernels(request.model),
        requires=requires(request.model),
        runs_elsewhere=_runs_elsewhere(request.model),
        notes=notes if sources.first() else (*notes, SYNTHETIC),
    )


def _runs_elsewhere(model: Path) -> RunsElsewhere:
    return RunsElsewhere(tensorrt=tensorrt(load_model(model)))


def _loss(session: Session, request: Against, progress: Progress) -> Loss | None:
    evaluation = request.evaluation or bundled.data_beside(request.original)
    if not (request.reference and evaluation):
        if request.feeds:  # a candidate that cannot run is refused here and not first when it is timed
            run(session, [output.name for output in session.get_outputs()], read_feeds(request.feeds)[0])
        return None
    reference = Reference(request.reference)
    source = open_source(evaluation, inputs_of(session), reference.order)
    return evaluate_candidate(session, source, reference, progress)
