"""What nobody used for long, and what is left of it once it has expired.

Ids sort by time: what was made before a moment has a smaller id than the first of that moment.
"""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import ColumnElement, Select, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db.base import first_id, made_at, now_us
from app.db.models import WEIGHTY, Artifact, Dataset, Job, Version
from app.db.queries.statements import changed, locked
from app.db.retention import ExpiredArtifact
from app.domain.retention import EVIDENCE

AT_ONCE = 100
ARTIFACTS_AT_ONCE = 500
Input = TypeVar("Input", Version, Dataset)
PREFIXES = {Version: "ver", Dataset: "dst"}
USED_AS: dict[type[Version] | type[Dataset], tuple[InstrumentedAttribute[str | None], ...]] = {
    Version: (Job.version_id,),
    Dataset: (Job.calibration_id, Job.evaluation_id),
}


def idle(db: Session, table: type[Input], project_id: str, since_us: int) -> Sequence[str]:
    """Some versions or datasets that are older than this and that no later job took, the oldest first."""
    return db.scalars(_idle(table, project_id, since_us).order_by(table.id).limit(AT_ONCE)).all()


def lock_idle(db: Session, table: type[Input], project_id: str, row_id: str, since_us: int) -> Input | None:
    """The version or dataset, locked, if nobody came to use it meanwhile."""
    row = db.scalars(locked(select(table).where(table.id == row_id))).one()
    found = db.scalars(_idle(table, project_id, since_us).where(table.id == row_id))
    return row if found.first() else None  # a statement of its own sees who had the lock before


def jobs_with_weights(db: Session, project_id: str, since_us: int) -> Sequence[str]:
    """Some jobs that ended before this and have files with weights or samples."""
    old = (Artifact.project_id == project_id, Artifact.id < first_id("art", since_us), WEIGHTY)
    files = select(Artifact.job_id).join(Job, Job.id == Artifact.job_id).where(*old)
    files = files.where(Job.finished_at < since_us).order_by(Artifact.id).limit(ARTIFACTS_AT_ONCE)
    return db.scalars(select(files.subquery().c.job_id).distinct()).all()


def files_with_weights(db: Session, job_id: str) -> Sequence[Artifact]:
    """A job's files with weights or samples, locked until the transaction ends."""
    chosen = select(Artifact).where(Artifact.job_id == job_id, Artifact.kind.not_in(EVIDENCE))
    return db.scalars(locked(chosen.order_by(Artifact.id))).all()


def import_version(db: Session, project_id: str, version_id: str) -> None:
    """Note that a job measures this version as a candidate: no index finds that again."""
    mine = (Version.id == version_id, Version.project_id == project_id)
    changed(db, update(Version).where(*mine).values(imported_at=now_us()))


def last_uses(db: Session, table: type[Version] | type[Dataset], ids: Sequence[str]) -> dict[str, int]:
    """When the newest job was made that takes each of these; those without one are left out."""
    found: dict[str, int] = {}
    for column in USED_AS[table]:
        newest = select(column, func.max(Job.id)).where(column.in_(ids)).group_by(column)
        for row_id, job_id in db.execute(newest):
            found[str(row_id)] = max(found.get(str(row_id), 0), made_at(job_id))
    return found


def expired_artifact(db: Session, project_id: str, artifact_id: str) -> ExpiredArtifact | None:
    """What is left of a project's file."""
    found = db.get(ExpiredArtifact, artifact_id)
    return found if found and found.project_id == project_id else None


def expired_artifact_of(db: Session, subject_id: str, kind: str) -> ExpiredArtifact | None:
    """What is left of the file of this kind that a job or a candidate had."""
    mine = (ExpiredArtifact.subject_id == subject_id, ExpiredArtifact.kind == kind)
    return db.scalars(select(ExpiredArtifact).where(*mine)).one_or_none()


def _idle(table: type[Input], project_id: str, since_us: int) -> Select[str]:
    mine = (table.project_id == project_id, table.expired_at.is_(None), table.deleted_at.is_(None))
    old = (table.id < first_id(PREFIXES[table], since_us), _unused(table, since_us))
    chosen = select(table.id).where(*mine, *old, table.state == "ready")
    if table is Version:
        return chosen.where(func.coalesce(Version.imported_at, 0) < since_us)
    return chosen


def _unused(table: type[Version] | type[Dataset], since_us: int) -> ColumnElement[bool]:
    """No job that was made since then takes it."""
    later = Job.id >= first_id("job", since_us)
    users = [select(Job.id).where(column == table.id, later).exists() for column in USED_AS[table]]
    return ~or_(*users)
