"""Jobs of the same model that succeeded before."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.db.models import Artifact, Job
from app.db.queries.job_lists import labelled
from app.db.queries.jobs import SUCCEEDED
from app.domain.against import Against


def succeeded_job(db: Session, job: Job, named: Against) -> Job | None:
    """The newest job before this one that succeeded and is what `named` says."""
    chosen = _before(job)
    match named.kind:
        case "latest":
            chosen = labelled(chosen, named.labels)
        case "version":
            chosen = chosen.where(Job.version_id == named.id)
        case _:
            chosen = chosen.where(Job.id == named.id)
    found: Job | None = db.scalars(chosen.order_by(Job.id.desc()).limit(1)).first()
    return found


def any_job(db: Session, job: Job) -> bool:
    """Whether any job of this model succeeded before this one."""
    return db.scalars(_before(job).with_only_columns(Job.id).limit(1)).first() is not None


def outcomes(db: Session, candidates: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of what each candidate got right, by candidate."""
    kept = select(Artifact).where(Artifact.subject_id.in_(candidates), Artifact.kind == "outcomes")
    return {artifact.subject_id: artifact.sha256 for artifact in db.scalars(kept)}


def _before(job: Job) -> Select[Any]:
    same = (Job.project_id == job.project_id, Job.model_id == job.model_id)
    return select(Job).where(*same, *SUCCEEDED, Job.id < job.id)
