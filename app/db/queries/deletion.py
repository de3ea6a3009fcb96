"""What hangs on a model or a dataset that is to be deleted."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, String, cast, or_, select, update
from sqlalchemy.orm import Session

from app.db.base import now_us
from app.db.models import Artifact, Job, Step, Version
from app.db.queries.statements import changed, locked
from app.domain.job import JOB_OPEN

INTERMEDIATE = ("model", "statistics", "calibration_order", "reference", "feeds")


def lock_versions(db: Session, model_id: str) -> Sequence[Version]:
    """A model's versions, locked until the transaction ends."""
    return db.scalars(locked(select(Version).where(Version.model_id == model_id).order_by(Version.id))).all()


def version_ids(db: Session, model_id: str) -> Sequence[str]:
    """The ids of a model's versions."""
    return db.scalars(select(Version.id).where(Version.model_id == model_id)).all()


def open_jobs_naming(db: Session, project_id: str, upload_ids: Sequence[str]) -> Sequence[str]:
    """Unfinished jobs in whose spec one of these ids stands, in whatever place."""
    spec = cast(Job.spec, String)
    named = or_(*(spec.contains(upload_id) for upload_id in upload_ids))
    mine = (Job.project_id == project_id, Job.state.in_(JOB_OPEN))
    return db.scalars(select(Job.id).where(*mine, named).order_by(Job.id)).all()


def cancel_inspections(db: Session, upload_ids: Sequence[str]) -> None:
    """End the open inspections of these uploads; a worker that is at one finds its result unwanted."""
    opened = (Step.subject_id.in_(upload_ids), Step.state.in_(("queued", "running")))
    changed(db, update(Step).where(*opened).values(state="canceled", finished_at=now_us()))


def intermediate_artifacts(db: Session, upload_ids: Sequence[str]) -> Sequence[Artifact]:
    """What jobs derived from these uploads for their own use: it holds their weights or samples."""
    made = (Artifact.subject_id == Artifact.job_id, Artifact.kind.in_(INTERMEDIATE))
    chosen = select(Artifact).join(Job, Job.id == Artifact.job_id).where(*made, _uses(upload_ids))
    return db.scalars(chosen).all()


def _uses(upload_ids: Sequence[str]) -> ColumnElement[bool]:
    columns = (Job.version_id, Job.calibration_id, Job.evaluation_id)
    return or_(*(column.in_(upload_ids) for column in columns))
