"""One function per kind of step, in running order.

Each reads what it needs in a short transaction, works without one, and returns what to write at the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sqlalchemy.orm import Session

from app.db import queries
from app.db.base import adapter
from app.db.models import Candidate, Dataset, Job, Version
from app.db.queries import earlier
from app.domain import processor
from app.domain.against import Earlier, Outcomes
from app.domain.errors import Problem, Refused
from app.domain.file_path import is_plain
from app.domain.job import PREPARED
from app.domain.note import Note
from app.domain.recipe import Imported, Recipe, reads_ranges, uses_calibration
from app.domain.report import Examination
from app.services import artifacts, candidates, datasets, gates, models
from app.services.outcomes import Record
from worker import host
from worker.benchmark import Measured, measure
from worker.engine.packed import is_packed
from worker.engine.requests import (
    Build,
    Built,
    Data,
    ExamineDataset,
    ExaminedDataset,
    ExamineModel,
    Prepare,
    Prepared,
    Unpacked,
    UnpackModel,
)
from worker.sandbox import Refusal
from worker.work import Work

LARGEST_MODEL = 1_500_000_000  # bytes: from there on results have external data, and are several files


def inspect_version(work: Work) -> Record:
    """Look at an uploaded model: what is in it, what can be quantized."""
    _refuse_giants(work)
    version_id, storage = work.claim.subject_id, work.process.storage
    model = _stage_version(work, version_id, "model")
    members = _unpack(work, model)
    main = members[0] if members else model
    examination = work.call("examine_model", ExamineModel(model=main), Examination)
    files = [(str(path.relative_to(main.parent)), work.publish(path)) for path in members]

    def record(db: Session) -> None:
        if files:
            models.unpacked(db, storage, version_id, files)
        models.accept(db, version_id, examination)

    return record


def inspect_dataset(work: Work) -> Record:
    """Look at uploaded samples."""
    data = _stage_dataset(work, work.claim.subject_id)
    found = work.call("examine_dataset", ExamineDataset(data=data), ExaminedDataset)
    return lambda db: datasets.accept(db, work.claim.subject_id, found.summary, found.preview)


def prepare(work: Work) -> Record:
    """Prepare the float model once for all recipes, calibrate, and evaluate the baseline."""
    with work.process.database.reading() as db:
        job = db.get_one(Job, work.claim.subject_id)
        recipes = [c.recipe for c in queries.candidates(db, job.id) if c.recipe]
    out = _output_folder(work)
    request = _prepare_request(work, job, out, recipes)
    prepared = work.call("prepare", request, Prepared)
    names = {kind: getattr(prepared, kind) for kind in PREPARED}
    files = {kind: (Path(name).name, work.publish(out / name)) for kind, name in names.items() if name}
    isa = processor.isa() if job.spec.target.isa == "auto" else job.spec.target.isa

    def record(db: Session) -> None:
        row = db.get_one(Job, job.id)
        row.isa, row.batch, row.notes = isa, prepared.batch, list(prepared.notes)
        for kind, (name, received) in files.items():
            artifacts.add(db, work.process.storage, row, row.id, kind, name, received)
        candidates.prepared(db, row.id, prepared.baseline)

    return record


def build(work: Work) -> Record:
    """Quantize by one recipe and evaluate the result."""
    with work.process.database.reading() as db:
        candidate = db.get_one(Candidate, work.claim.subject_id)
        job = db.get_one(Job, candidate.job_id)
        found = {kind: a.sha256 for kind, a in queries.artifacts(db, job.id).items()}
    assert candidate.recipe is not None  # noqa: S101 - only the baseline has none
    staged = {kind: work.stage(sha256, f"prepared/{kind}") for kind, sha256 in found.items()}
    out = _output_folder(work)
    request = Build(
        original=_stage_version(work, job.version_id, "original"),
        model=staged["model"],
        out=out,
        recipe=candidate.recipe,
        isa=str(job.isa),
        runtime=job.spec.target.onnxruntime,
        imported=_stage_imported(work, candidate.recipe),
        calibration=_calibration(work, job) if "calibration_order" in staged else None,
        calibration_order=staged.get("calibration_order"),
        statistics=staged.get("statistics"),
        reference=staged.get("reference"),
        feeds=staged.get("feeds"),
        evaluation=_samples(work, job, job.evaluation_id),
    )
    built = work.call("build", request, Built)
    received = work.publish(out / built.model)
    figures = replace(built.figures, notes=(*built.figures.notes, *map(Note.read, built.reasons)))
    found_out = {"flips": built.flips, "outcomes": built.outcomes, "layers": built.layers}
    more = {kind: work.keep(value) for kind, value in found_out.items() if value}
    storage = work.process.storage
    return lambda db: candidates.built(db, storage, candidate.id, built.recipe, figures, received, more)


def benchmark(work: Work) -> Record:
    """Measure all candidates against the baseline, alone on this host."""
    with work.process.database.reading() as db:
        job = db.get_one(Job, work.claim.subject_id)
        models_of = queries.candidate_artifacts(db, job.id)
        built = [c.id for c in queries.candidates(db, job.id) if c.state == "built"]
        feeds = queries.artifacts(db, job.id)["feeds"].sha256
    contestants = {c: work.stage(models_of[c].sha256, f"{c}/model.onnx") for c in built}
    baseline = _stage_version(work, job.version_id, "baseline")
    staged = work.stage(feeds, "feeds.npz")
    measured = measure(work, job.spec, job.batch or 1, baseline, contestants, staged)

    def record(db: Session) -> None:
        row = db.get_one(Job, job.id)
        row.environment = host.describe()
        _record(db, queries.baseline(db, job.id).id, measured.baseline)
        for candidate_id, result in measured.candidates.items():
            _record(db, candidate_id, result)

    return record


def report(work: Work) -> Record:
    """Decide the gate, the Pareto front and the best candidate."""
    with work.process.database.reading() as db:
        job = db.get_one(Job, work.claim.subject_id)
        against = gates.compared(db, job)
        candidate_ids = [c.id for c in queries.candidates(db, job.id)]
    if isinstance(against, Earlier):
        outcomes = _outcomes(work, [against.candidate, *candidate_ids])
        against = replace(against, outcomes=outcomes.pop(against.candidate, None), now=outcomes)
    return lambda db: candidates.conclude(db, db.get_one(Job, job.id), against)


STEPS: dict[str, Callable[[Work], Record]] = {
    "inspect_version": inspect_version,
    "inspect_dataset": inspect_dataset,
    "prepare": prepare,
    "build": build,
    "benchmark": benchmark,
    "report": report,
}


def _outcomes(work: Work, candidate_ids: Sequence[str]) -> dict[str, Outcomes]:
    """Which samples candidates got right, where that was kept."""
    with work.process.database.reading() as db:
        kept = earlier.outcomes(db, candidate_ids)
    files = {c: work.stage(sha256, f"outcomes/{c}") for c, sha256 in kept.items()}
    return {c: adapter(Outcomes).validate_json(file.read_bytes()) for c, file in files.items()}


def _unpack(work: Work, model: Path) -> list[Path]:
    """The files of a model that came as an archive, its main file first; none when it did not."""
    if not is_packed(model):
        return []
    out = _output_folder(work)
    request = UnpackModel(archive=model, out=out, limit=LARGEST_MODEL)
    files = work.call("unpack_model", request, Unpacked).files
    _refuse_strange(files)
    return [out / path for path in files]


def _refuse_strange(files: Sequence[str]) -> None:
    """Whoever has taken over the child that unpacks would name files that workers and clients then write."""
    main = PurePosixPath(*files[:1]).parent
    strange = [one for one in files if not is_plain(one) or not PurePosixPath(one).is_relative_to(main)]
    if strange:
        detail = f"The engine unpacked to {strange[0][:100]!r}, which is no plain path beside the model."
        raise Refusal(Problem("engine_crashed", detail))


def _refuse_giants(work: Work) -> None:
    with work.process.database.reading() as db:
        size = sum(file.size for file in db.get_one(Version, work.claim.subject_id).files)
    if size > LARGEST_MODEL:
        detail = f"The model has {size} bytes; jobs take models of up to {LARGEST_MODEL} bytes."
        raise Refused("model_too_large", detail)


def _record(db: Session, candidate_id: str, result: Measured) -> None:
    candidates.measured(db, candidate_id, result.latency, result.memory, result.notes, result.openvino)


def _stage_version(work: Work, version_id: str, folder: str) -> Path:
    """Stage a version's files beside each other; the answer is its main file."""
    with work.process.database.reading() as db:
        files = [(f.path, f.sha256) for f in db.get_one(Version, version_id).files]
    staged = [work.stage(sha256, f"{folder}/{path}") for path, sha256 in files]
    return staged[0]


def _stage_imported(work: Work, recipe: Recipe) -> Path | None:
    return _stage_version(work, recipe.version, "imported") if isinstance(recipe, Imported) else None


def _calibration(work: Work, job: Job) -> Data | None:
    return _samples(work, job, job.calibration_id)


def _samples(work: Work, job: Job, dataset_id: str | None) -> Data | None:
    return replace(_stage_dataset(work, dataset_id), state=job.spec.state) if dataset_id else None


def _stage_dataset(work: Work, dataset_id: str) -> Data:
    with work.process.database.reading() as db:
        row = db.get_one(Dataset, dataset_id)
    path = work.folder / "data" / dataset_id
    if not path.exists():
        work.stage(str(row.sha256), f"data/{dataset_id}")
    return Data(path=path, preprocess=row.preprocess, input=row.input)


def _output_folder(work: Work) -> Path:
    out = work.folder / "out"
    out.mkdir()
    return out


def _prepare_request(work: Work, job: Job, out: Path, recipes: Sequence[Recipe]) -> Prepare:
    spec = job.spec
    calibrates = any(uses_calibration(recipe) for recipe in recipes)
    return Prepare(
        model=_stage_version(work, job.version_id, "model"),
        out=out,
        calibration=_calibration(work, job) if calibrates else None,
        reads_ranges=any(reads_ranges(recipe) for recipe in recipes),
        evaluation=_samples(work, job, job.evaluation_id),
        calibration_samples=spec.calibration.samples,
        evaluation_samples=spec.evaluation.samples,
        question=spec.evaluation,
        batch=spec.benchmark.batch,
        shapes=spec.shapes,
    )
