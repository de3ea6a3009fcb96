"""What hangs on a model or a dataset that is to be deleted."""

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.base import now_us
from app.db.models import Artifact, Job, Step, Version
from app.db.queries.jobs import is_made_of
from app.db.queries.statements import changed, locked
from app.domain.job import PREPARED


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
    """What jobs derived from these uploads for their own use: it holds their weights or samples."""
    made = (Artifact.subject_id == Artifact.job_id, Artifact.kind.in_(PREPARED))
    chosen = select(Artifact).join(Job, Job.id == Artifact.job_id).where(*made, is_made_of(upload_ids))
    return db.scalars(chosen).all()
