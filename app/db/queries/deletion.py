"""What hangs on a model, a dataset or a job that is to be deleted."""

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.db.base import now_us
from app.db.models import Artifact, Candidate, Job, JobLabel, Step, StepLog, Version
from app.db.queries.jobs import is_made_of
from app.db.queries.statements import changed, locked
from app.domain.job import JOB_OPEN, PREPARED


def lock_versions(db: Session, model_id: str) -> Sequence[Version]:
    """A model's versions, locked until the transaction ends."""
    return db.scalars(locked(select(Version).where(Version.model_id == model_id).order_by(Version.id))).all()


def version_ids(db: Session, model_id: str) -> Sequence[str]:
    """The ids of a model's versions."""
    return db.scalars(select(Version.id).where(Version.model_id == model_id)).all()


def cancel_inspections(db: Session, upload_ids: Sequence[str]) -> None:
    """End the open inspections of these uploads; a worker that is at one finds its result unwanted."""
    opened = (Step.subject_id.in_(upload_ids), Step.state.in_(("queued", "running")))
    changed(db, update(Step).where(*opened).values(state="canceled", finished_at=now_us()))


def intermediate_artifacts(db: Session, upload_ids: Sequence[str]) -> Sequence[Artifact]:
    """What jobs derived from these uploads for their own use, locked: it holds their weights or samples."""
    made = (Artifact.subject_id == Artifact.job_id, Artifact.kind.in_(PREPARED))
    chosen = select(Artifact).join(Job, Job.id == Artifact.job_id).where(*made, is_made_of(upload_ids))
    return db.scalars(chosen.order_by(Artifact.id).with_for_update(of=Artifact)).all()


def job_artifacts(db: Session, job_id: str) -> Sequence[Artifact]:
    """All files of a job."""
    return db.scalars(select(Artifact).where(Artifact.job_id == job_id)).all()


def open_jobs_of_model(db: Session, project_id: str, model_id: str | None) -> Sequence[Job]:
    """A model's jobs that have not ended."""
    mine = (Job.project_id == project_id, Job.model_id == model_id, Job.state.in_(JOB_OPEN))
    return db.scalars(select(Job).where(*mine)).all()


def forget_rows_of_job(db: Session, job_id: str) -> None:
    """Remove a job's candidates and labels, and what the engine printed; its steps go with the timeline."""
    changed(db, delete(Candidate).where(Candidate.job_id == job_id))
    changed(db, delete(JobLabel).where(JobLabel.job_id == job_id))
    steps = select(Step.id).where(Step.job_id == job_id)
    changed(db, delete(StepLog).where(StepLog.step_id.in_(steps)))
