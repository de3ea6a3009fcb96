"""Results that may serve again."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, now_us
from app.db.models import Artifact, Candidate, Dataset, Host, Job, Step, Version
from app.db.queries.statements import insert

MEASUREMENT_LASTS = 7 * 86400 * MICROSECONDS
SEEN_TOGETHER = 600 * MICROSECONDS
TRIED = 10
Inspected = TypeVar("Inspected", Version, Dataset)


def see_host(db: Session, fingerprint: str, environment: dict[str, str]) -> None:
    """Note that this benchmark host is there now."""
    values = {"fingerprint": fingerprint, "environment": environment, "seen_at": now_us()}
    statement = insert(db, Host).values(values)
    db.execute(
        statement.on_conflict_do_update(
            index_elements=["fingerprint"], set_={"seen_at": statement.excluded.seen_at}
        )
    )


def environments(db: Session) -> Sequence[dict[str, str]]:
    """Of the hosts that benchmark: seen about as lately as the one seen last."""
    latest = select(func.max(Host.seen_at)).scalar_subquery()
    return db.scalars(select(Host.environment).where(Host.seen_at > latest - SEEN_TOGETHER)).all()


def inspected(db: Session, row: Inspected, inspected_by: str) -> Inspected | None:
    """An accepted upload of the same project with the same content, read in the same way."""
    kind = type(row)
    same = (kind.project_id == row.project_id, kind.content_key == row.content_key, kind.id != row.id)
    accepted = (kind.state == "ready", kind.inspected_by == inspected_by)
    here = (kind.deleted_at.is_(None), kind.expired_at.is_(None))
    newest = select(kind).where(*same, *accepted, *here).order_by(kind.id.desc()).limit(1)
    return db.scalars(newest.with_for_update(read=True)).first()  # its bytes stay while we refer to them


def prepared_jobs(db: Session, job: Job, key: str) -> Sequence[Job]:
    """Jobs of the same project whose preparation is done and has this key, the newest first."""
    done = select(Step.job_id).where(Step.kind == "prepare", Step.state == "done")
    same = (Job.project_id == job.project_id, Job.prepare_key == key, Job.id != job.id)
    return db.scalars(select(Job).where(*same, Job.id.in_(done)).order_by(Job.id.desc()).limit(TRIED)).all()


def built_candidates(db: Session, candidate: Candidate, key: str) -> Sequence[tuple[Candidate, Artifact]]:
    """Candidates of the same project that were built with this key, with their models, the newest first."""
    made = (Artifact.subject_id == Candidate.id) & (Artifact.kind == "candidate")
    same = (Candidate.project_id == candidate.project_id, Candidate.build_key == key)
    other = Candidate.id != candidate.id
    found = select(Candidate, Artifact).join(Artifact, made).where(*same, other)
    return [(row[0], row[1]) for row in db.execute(found.order_by(Candidate.id.desc()).limit(TRIED))]


def measured_candidates(db: Session, job: Job, sha256: str) -> Sequence[Candidate]:
    """Measured candidates with these bytes, from jobs on the same preparation that succeeded this week."""
    made = (Artifact.subject_id == Candidate.id) & (Artifact.kind == "candidate")
    recent = (Job.state == "succeeded", Job.finished_at > now_us() - MEASUREMENT_LASTS)
    same = (Job.project_id == job.project_id, Job.prepare_key == job.prepare_key, Artifact.sha256 == sha256)
    found = select(Candidate).join(Artifact, made).join(Job, Job.id == Candidate.job_id)
    found = found.where(*same, *recent, Candidate.state == "measured", Job.id != job.id)
    return db.scalars(found.order_by(Candidate.id.desc()).limit(TRIED)).all()
