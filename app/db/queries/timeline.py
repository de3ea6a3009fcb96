"""What happened in a job: its steps, what they printed, its candidates and files, in order."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from app.db.models import Artifact, Candidate, Step, StepLog
from app.db.retention import ExpiredArtifact

Kind = TypeVar("Kind", Step, Artifact, ExpiredArtifact)


def steps_page(
    db: Session, job_id: str, state: str | None, kind: str | None, cursor: str | None, limit: int
) -> Sequence[Step]:
    """The job's steps by id, and one more when there is a next page."""
    chosen = select(Step).where(Step.job_id == job_id)
    chosen = chosen.where(Step.state == state) if state else chosen
    chosen = chosen.where(Step.kind == kind) if kind else chosen
    return _page(db, chosen, Step, cursor, limit)


def artifacts_page(
    db: Session, job_id: str, kind: str | None, cursor: str | None, limit: int
) -> Sequence[Artifact | ExpiredArtifact]:
    """The job's files by id, also those that have expired, and one more when there is a next page."""
    here = select(Artifact).where(Artifact.job_id == job_id)
    gone = select(ExpiredArtifact).where(ExpiredArtifact.job_id == job_id)
    if kind:
        here, gone = here.where(Artifact.kind == kind), gone.where(ExpiredArtifact.kind == kind)
    found: list[Artifact | ExpiredArtifact] = list(_page(db, here, Artifact, cursor, limit))
    found += _page(db, gone, ExpiredArtifact, cursor, limit)
    return sorted(found, key=lambda row: row.id)[: limit + 1]


def models_of(db: Session, job_id: str) -> dict[str, Artifact | ExpiredArtifact]:
    """The candidates' models of a job or what is left of them, by candidate."""
    return {row.subject_id: row for row in _models(db, job_id=job_id)}


def model_of(db: Session, candidate_id: str) -> Artifact | ExpiredArtifact | None:
    """A candidate's model or what is left of it."""
    return next(_models(db, subject_id=candidate_id), None)


def candidates_page(
    db: Session, job_id: str, state: str | None, cursor: str | None, limit: int
) -> Sequence[Candidate]:
    """The job's candidates in the order of its recipes, and one more when there is a next page."""
    chosen = select(Candidate).where(Candidate.job_id == job_id, ~Candidate.baseline)
    chosen = chosen.where(Candidate.state == state) if state else chosen
    if cursor:
        before = select(Candidate.position).where(Candidate.id == cursor).scalar_subquery()
        chosen = chosen.where(Candidate.position > before)
    return db.scalars(chosen.order_by(Candidate.position).limit(limit + 1)).all()


def candidate_names(db: Session, job_id: str) -> dict[str, str]:
    """The names of a job's candidates by id."""
    found = db.execute(select(Candidate.id, Candidate.name).where(Candidate.job_id == job_id))
    return {row.id: row.name for row in found}


def printed(db: Session, job_id: str, since: int) -> Sequence[Row[StepLog, Step]]:
    """What the engine printed in each attempt of each step that ended then or later, with the step."""
    found = select(StepLog, Step).join(Step, Step.id == StepLog.step_id)
    found = found.where(Step.job_id == job_id, StepLog.created_at >= since)
    return db.execute(found.order_by(StepLog.created_at, StepLog.step_id, StepLog.attempt)).all()


def _page(
    db: Session, chosen: Select[Kind], table: type[Kind], cursor: str | None, limit: int
) -> Sequence[Kind]:
    if cursor:
        chosen = chosen.where(table.id > cursor)
    return db.scalars(chosen.order_by(table.id).limit(limit + 1)).all()


def _models(db: Session, **of: str) -> Iterator[Artifact | ExpiredArtifact]:
    yield from db.scalars(select(Artifact).filter_by(kind="candidate", **of))
    yield from db.scalars(select(ExpiredArtifact).filter_by(kind="candidate", **of))
