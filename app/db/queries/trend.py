"""How a model's versions did, one after the other."""

from collections.abc import Mapping, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.models import Candidate, Job, Version
from app.db.queries.job_lists import labelled
from app.db.queries.jobs import SUCCEEDED


def versions_page(
    db: Session, model_id: str, labels: Mapping[str, str], cursor: str | None, limit: int
) -> Sequence[Version]:
    """The model's versions that have a succeeded job (with these labels), newest first, and one more."""
    jobs = select(Job.version_id).where(Job.version_id == Version.id, *SUCCEEDED)
    chosen = select(Version).where(Version.model_id == model_id, labelled(jobs, labels).exists())
    if cursor:
        chosen = chosen.where(Version.id < cursor)
    return db.scalars(chosen.order_by(Version.id.desc()).limit(limit + 1)).all()


def latest_jobs(db: Session, version_ids: Sequence[str], labels: Mapping[str, str]) -> Mapping[str, Job]:
    """The newest succeeded job of each version (with these labels)."""
    newest = select(func.max(Job.id)).where(Job.version_id.in_(version_ids), *SUCCEEDED)
    newest = labelled(newest, labels).group_by(Job.version_id)
    found = db.scalars(select(Job).where(Job.id.in_(newest)))
    return {job.version_id: job for job in found}


def candidates_named(db: Session, candidate_ids: Sequence[str]) -> Mapping[str, Candidate]:
    """Candidates by id."""
    return {c.id: c for c in db.scalars(select(Candidate).where(Candidate.id.in_(candidate_ids)))}
