"""Jobs, their candidates and artifacts."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, TableValuedAlias, func, or_, select, type_coerce, union_all
from sqlalchemy.orm import Session

from app.db.base import Json, now_us
from app.db.models import (
    Artifact,
    Candidate,
    Dataset,
    Job,
    Version,
)
from app.db.queries.statements import locked
from app.db.webhooks import Delivery
from app.domain.job import JOB_ENDED, JOB_OPEN

SUCCEEDED = (Job.state == "succeeded", Job.deleted_at.is_(None))  # and is still to be found


def lock_job(db: Session, job_id: str) -> Job:
    """The job, locked until the transaction ends. The order of locks is job, candidates, steps."""
    return db.scalars(locked(select(Job).where(Job.id == job_id))).one()


def lock_candidates(db: Session, job_id: str) -> Sequence[Candidate]:
    """The job's candidates in order, locked, without the baseline."""
    chosen = select(Candidate).where(Candidate.job_id == job_id, ~Candidate.baseline)
    return db.scalars(locked(chosen.order_by(Candidate.position))).all()


def baseline(db: Session, job_id: str) -> Candidate:
    """The float model as a job that was prepared measures it."""
    return db.scalars(select(Candidate).where(Candidate.job_id == job_id, Candidate.baseline)).one()


def candidates(db: Session, job_id: str) -> Sequence[Candidate]:
    """The job's candidates in order, without the baseline."""
    chosen = select(Candidate).where(Candidate.job_id == job_id, ~Candidate.baseline)
    return db.scalars(chosen.order_by(Candidate.position)).all()


def artifacts(db: Session, subject_id: str) -> dict[str, Artifact]:
    """The artifacts of a job's preparation or of a candidate, by kind."""
    found = db.scalars(select(Artifact).where(Artifact.subject_id == subject_id))
    return {artifact.kind: artifact for artifact in found}


def candidate_artifacts(db: Session, job_id: str) -> dict[str, Artifact]:
    """The candidates' models of a job, by candidate."""
    found = db.scalars(select(Artifact).where(Artifact.job_id == job_id, Artifact.kind == "candidate"))
    return {artifact.subject_id: artifact for artifact in found}


def open_jobs_using(db: Session, project_id: str, upload_ids: Sequence[str]) -> Sequence[str]:
    """A project's jobs that have not ended and use one of these versions or datasets."""
    measured = _spec_candidates(db)
    among_candidates = select(measured).where(measured.c.value.in_(upload_ids)).exists()
    mine = (Job.project_id == project_id, Job.state.in_(JOB_OPEN))
    chosen = select(Job.id).where(*mine, or_(is_made_of(upload_ids), among_candidates))
    return db.scalars(chosen.order_by(Job.id)).all()


def is_made_of(upload_ids: Sequence[str]) -> ColumnElement[bool]:
    """Whether a job quantizes one of these versions, or calibrates or evaluates on one of these datasets."""
    columns = (Job.version_id, Job.calibration_id, Job.evaluation_id)
    return or_(*(column.in_(upload_ids) for column in columns))


def _spec_candidates(db: Session) -> TableValuedAlias:
    """The versions that a job's spec names as candidates, one in a row."""
    spec = type_coerce(Job.spec, Json)
    if db.get_bind().dialect.name == "postgresql":
        return func.jsonb_array_elements_text(spec["candidates"]).table_valued("value")
    return func.json_each(spec, "$.candidates").table_valued("value")


def open_jobs(db: Session, project_id: str) -> Sequence[str]:
    """A project's jobs that have not ended."""
    mine = select(Job.id).where(Job.project_id == project_id, Job.state.in_(JOB_OPEN))
    return db.scalars(mine.order_by(Job.id)).all()


def jobs_past_deadline(db: Session) -> Sequence[str]:
    """Jobs that have not ended and should have."""
    late = select(Job.id).where(Job.state.in_(JOB_OPEN), Job.deadline_at <= now_us())
    return db.scalars(late.limit(100)).all()


def settled(db: Session, subject_ids: Sequence[str]) -> Sequence[str]:
    """Which of these jobs have ended, of these uploads were inspected, of these deliveries have ended."""
    jobs = select(Job.id).where(Job.id.in_(subject_ids), Job.state.in_(JOB_ENDED))
    versions = select(Version.id).where(Version.id.in_(subject_ids), Version.state != "inspecting")
    datasets = select(Dataset.id).where(Dataset.id.in_(subject_ids), Dataset.state != "inspecting")
    deliveries = select(Delivery.id).where(Delivery.id.in_(subject_ids), Delivery.state != "pending")
    return db.scalars(union_all(jobs, versions, datasets, deliveries)).all()
