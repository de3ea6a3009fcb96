"""Jobs of the same model that succeeded before."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Select, select, type_coerce
from sqlalchemy.orm import Session

from app.db.base import Json
from app.db.models import Artifact, Job, Version
from app.domain.against import Against

PAGE = 200


def succeeded_job(db: Session, job: Job, named: Against) -> Job | None:
    """The newest job before this one that succeeded and is what `named` says."""
    chosen = _before(db, job).order_by(Job.id.desc())
    if named.kind == "latest":
        return _labelled(db, chosen, dict(named.labels))
    mine = Job.version_id == named.id if named.kind == "version" else Job.id == named.id
    found: Job | None = db.scalars(chosen.where(mine).limit(1)).first()
    return found


def any_job(db: Session, job: Job) -> bool:
    """Whether any job of this model succeeded before this one."""
    return db.scalars(_before(db, job).with_only_columns(Job.id).limit(1)).first() is not None


def outcomes(db: Session, candidates: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of what each candidate got right, by candidate."""
    kept = select(Artifact).where(Artifact.subject_id.in_(candidates), Artifact.kind == "outcomes")
    return {artifact.subject_id: artifact.sha256 for artifact in db.scalars(kept)}


def _before(db: Session, job: Job) -> Select[Any]:
    model = select(Version.id).where(Version.model_id == db.get_one(Version, job.version_id).model_id)
    same = (Job.project_id == job.project_id, Job.version_id.in_(model))
    return select(Job).where(*same, Job.state == "succeeded", Job.id < job.id)


def _labelled(db: Session, chosen: Select[Any], labels: dict[str, str]) -> Job | None:
    """Labels are read page by page, newest first: keys may hold what a JSON path cannot."""
    rows = chosen.with_only_columns(Job.id, type_coerce(Job.spec, Json)["labels"]).limit(PAGE)
    page = db.execute(rows).all()
    while page:
        for job_id, found in page:
            if labels.items() <= (found or {}).items():
                return db.get_one(Job, job_id)
        page = db.execute(rows.where(Job.id < page[-1][0])).all()
    return None
