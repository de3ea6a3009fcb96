"""Things that tests start from, and a worker's part played without an engine."""

import io
import secrets
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Blob, Candidate, Dataset, Job, Project, Step, Version
from app.db.session import Database
from app.domain.dataset import Preprocess
from app.domain.errors import Problem
from app.domain.gate import Gate
from app.domain.job import Evaluation, JobSpec
from app.domain.recipe import DynamicInt8, Recipe, StaticInt8, reads_ranges
from app.domain.report import Accuracy, DatasetSummary, Examination, Fidelity, Figures, Latency, Memory, Size
from app.services import artifacts, candidates, datasets, gates, jobs, models, outcomes
from app.services.outcomes import Record
from app.services.steps import Claim
from app.storage import Received, Storage
from app.storage.base import add, chunks

EXAMINATION = Examination(
    family="dense",
    inputs=(),
    outputs=(),
    ir=8,
    opsets={"": 17},
    producer="a test",
    nodes=1,
    op_types={"Gemm": 1},
    parameters=10,
    bytes=100,
    quantizable=1.0,
)
SUMMARY = DatasetSummary(format="npz", samples=100, arrays=(), labels=100, classes=("0", "1"))
ENVIRONMENT = {"cpu": "a CPU", "isa": "generic", "onnxruntime": "1"}
TWO_RECIPES = (DynamicInt8(), StaticInt8())


def make_project(database: Database) -> str:
    """The id of a new project."""
    with database.writing() as db:
        project = Project(name=f"project {secrets.token_hex(4)}")
        db.add(project)
        db.flush()
        return project.id


def store(storage: Storage, content: bytes) -> Received:
    """Bytes in the store that no row knows yet."""
    return add(storage, chunks(io.BytesIO(content)))


def make_blob(db: Session, project_id: str) -> Blob:
    """A blob that a project may refer to; its bytes are nowhere."""
    sha256 = secrets.token_hex(32)
    queries.insert_blob(db, sha256, secrets.token_hex(16), 3)
    queries.grant_blob(db, project_id, sha256, 3600)
    return queries.blob(db, sha256)


def make_version(database: Database, project_id: str, *, ready: bool = True) -> str:
    """The id of a version, inspected or not."""
    with database.writing() as db:
        files = [("model.onnx", make_blob(db, project_id))]
        version = models.add_version(db, project_id, f"model {secrets.token_hex(4)}", files, {})
    if ready:
        accept(database, version.id)
    return version.id


def make_dataset(database: Database, project_id: str, *, ready: bool = True) -> str:
    """The id of a dataset, inspected or not."""
    with database.writing() as db:
        blob = make_blob(db, project_id)
        dataset = datasets.add(db, project_id, "samples", blob, Preprocess(), None)
    if ready:
        accept(database, dataset.id)
    return dataset.id


def make_job(
    database: Database,
    project_id: str,
    *,
    recipes: tuple[Recipe, ...] = TWO_RECIPES,
    gate: Gate | None = None,
    version: str = "",
    dataset: str = "",
    deadline_s: int = 3600,
) -> str:
    """The id of a job; without a version and a dataset on ones that are ready."""
    spec = JobSpec(
        version=version or make_version(database, project_id),
        evaluation=Evaluation(dataset=dataset or make_dataset(database, project_id)),
        recipes=recipes,
        gate=gate,
        deadline_s=deadline_s,
    )
    with database.writing() as db:
        return jobs.create(db, project_id, spec).id


def figures(*, speedup: float = 2.0, ratio: float = 0.25, lost: int = 1, gained: int = 1) -> Figures:
    """Everything that can be measured of a candidate; the drop is exact and nothing else varies."""
    drop = (lost - gained) / 1000
    return Figures(
        size=Size(int(1000 * ratio), ratio),
        accuracy=Accuracy("top1", 0.9 - drop, 0.9, drop, (drop - 0.005, drop + 0.005), 1000, lost, gained),
        fidelity=Fidelity(40.0, 30.0, 0.1, 0.999, 0.99, 1000),
        latency=latency(speedup),
        memory=Memory(2000, 1000, 4000),
    )


def latency(speedup: float, *, spread: float = 0.0, rounds: int = 12) -> Latency:
    """A speed-up whose rounds lie within `spread` of it."""
    ratios = tuple(speedup + spread * (2 * i / (rounds - 1) - 1) for i in range(rounds))
    return Latency(
        p50_ms=1.0,
        p90_ms=1.1,
        baseline_p50_ms=speedup,
        speedup=speedup,
        ci=(speedup - spread, speedup + spread),
        noise=(0.99, 1.01),
        rounds=rounds,
        ratios=ratios,
        load_ms=5.0,
        cpu_ms=1.0,
        threads=1,
        batch=1,
        p50s_ms=(1.0,) * rounds,
    )


def steps_of(database: Database, subject_id: str, kind: str | None = None) -> list[Step]:
    """Steps of a job, or those that have this subject, in the order of their creation."""
    with database.reading() as db:
        chosen = select(Step).where((Step.job_id == subject_id) | (Step.subject_id == subject_id))
        chosen = chosen.where(Step.kind == kind) if kind else chosen
        return list(db.scalars(chosen.order_by(Step.created_at, Step.id)))


def step_of(database: Database, subject_id: str, kind: str) -> Step:
    """The one step of this kind."""
    (found,) = steps_of(database, subject_id, kind)
    return found


def row(database: Database, row_id: str) -> Version | Dataset:
    """A version or dataset as it is now."""
    with database.reading() as db:
        return queries.job_input(db, row_id)


def job_row(database: Database, job_id: str) -> Job:
    """A job as it is now."""
    with database.reading() as db:
        return db.get_one(Job, job_id)


def candidates_of(database: Database, job_id: str) -> list[Candidate]:
    """A job's candidates in order, without the baseline."""
    with database.reading() as db:
        return list(queries.candidates(db, job_id))


def take(database: Database, step_id: str, worker: str = "a worker") -> Claim:
    """Claim a step that is free."""
    with database.writing() as db:
        claim = outcomes.begin(db, step_id, worker)
    assert claim is not None
    return claim


def finish(database: Database, claim: Claim, record: Record = lambda _db: None) -> None:
    """Complete a claimed step."""
    with database.writing() as db:
        outcomes.complete(db, claim, record)


def fail(database: Database, storage: Storage, step_id: str, code: str) -> Problem:
    """Claim a step and let it fail for good."""
    problem, claim = Problem(code, f"This is {code}."), take(database, step_id)
    with database.writing() as db:
        outcomes.fail(db, storage, claim, problem)
    return problem


def accept(database: Database, upload_id: str) -> None:
    """Inspect an upload and find nothing wrong."""
    kind = "inspect_version" if upload_id.startswith("ver_") else "inspect_dataset"
    finish(database, take(database, step_of(database, upload_id, kind).id), accepted(upload_id))


def accepted(upload_id: str) -> Record:
    """What the inspection of a good upload writes."""
    if upload_id.startswith("ver_"):
        return lambda db: models.accept(db, upload_id, EXAMINATION)
    return lambda db: datasets.accept(db, upload_id, SUMMARY)


def work_off(
    database: Database,
    storage: Storage,
    job_id: str,
    measured: Callable[[int], Figures] = lambda _position: figures(),
    until: str = "",
) -> None:
    """Run a job's steps until it ends, or until a step of the kind `until` is next."""
    while open_steps := [s for s in steps_of(database, job_id) if s.state == "queued" and s.kind != until]:
        for step in open_steps:
            claim = take(database, step.id)
            finish(database, claim, result(storage, claim, measured))


def result(
    storage: Storage, claim: Claim, measured: Callable[[int], Figures] = lambda _position: figures()
) -> Record:
    """What a worker writes that did this step of a job well."""

    def prepare(db: Session) -> None:
        job = db.get_one(Job, claim.subject_id)
        job.isa = "generic"
        feeds = store(storage, secrets.token_bytes(8))
        artifacts.add(db, storage, job, job.id, "feeds", "feeds.npz", feeds)
        if any(reads_ranges(recipe) for recipe in job.spec.recipes):
            statistics = store(storage, secrets.token_bytes(8))
            artifacts.add(db, storage, job, job.id, "statistics", "statistics.npz", statistics)
        candidates.prepared(db, job.id, replace(measured(0), latency=None, memory=None))

    def build(db: Session) -> None:
        row = db.get_one(Candidate, claim.subject_id)
        found = replace(measured(row.position), latency=None, memory=None)
        model = store(storage, secrets.token_bytes(8))
        candidates.built(db, storage, row.id, row.recipe or DynamicInt8(), found, model)

    def benchmark(db: Session) -> None:
        job = db.get_one(Job, claim.subject_id)
        job.environment = ENVIRONMENT
        for row in (queries.baseline(db, job.id), *queries.candidates(db, job.id)):
            if row.state == "built":
                found = measured(row.position)
                openvino = found.runs_elsewhere.openvino if found.runs_elsewhere else None
                candidates.measured(db, row.id, found.latency, found.memory, (), openvino)

    def report(db: Session) -> None:
        job = db.get_one(Job, claim.subject_id)
        candidates.conclude(db, job, gates.compared(db, job))

    return {"prepare": prepare, "build": build, "benchmark": benchmark, "report": report}[claim.kind]
