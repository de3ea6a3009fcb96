"""How much of what a project has and does."""

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, first_id
from app.db.models import Artifact, Blob, Dataset, Job, ProjectBlob, Step, Upload, Version, VersionFile
from app.db.queries.statements import now
from app.domain.job import JOB_OPEN

DAY = 24 * 3600 * MICROSECONDS


def bytes_stored(db: Session, project_id: str) -> int:
    """Bytes of all blobs of a project, each counted once; an upload that repairs one counts in its place."""
    mine = select(ProjectBlob.sha256).where(ProjectBlob.project_id == project_id)
    repairing = _receiving(project_id).where(Upload.expected == Blob.sha256, Upload.length == Blob.size)
    counted = or_(Blob.damaged_at.is_(None), ~repairing.correlate(Blob).exists())
    total = select(func.coalesce(func.sum(Blob.size), 0)).where(Blob.sha256.in_(mine), counted)
    return int(db.scalars(total).one())


def bytes_coming(db: Session, project_id: str) -> int:
    """Bytes of all uploads of a project that are not complete: what they announced, however few came."""
    announced = _receiving(project_id).subquery()
    return int(db.scalars(select(func.coalesce(func.sum(announced.c.length), 0))).one())


def bytes_of_models(db: Session, project_id: str) -> int:
    """Bytes of the uploaded models."""
    return _sum(db, select(VersionFile.sha256).join(Version).where(Version.project_id == project_id))


def bytes_of_datasets(db: Session, project_id: str) -> int:
    """Bytes of the uploaded samples."""
    return _sum(db, select(Dataset.sha256).where(Dataset.project_id == project_id))


def bytes_of_artifacts(db: Session, project_id: str) -> int:
    """Bytes that jobs made."""
    return _sum(db, select(Artifact.sha256).where(Artifact.project_id == project_id))


def jobs_today(db: Session, project_id: str) -> int:
    """Jobs made since midnight UTC; counted by id, whose index holds them in order."""
    midnight = now(db) // DAY * DAY
    made = select(func.count()).where(Job.project_id == project_id, Job.id >= first_id("job", midnight))
    return db.scalars(made).one()


def seconds_to_midnight(db: Session) -> int:
    """Seconds until the next day begins, UTC."""
    return (DAY - now(db) % DAY) // MICROSECONDS + 1


def unfinished_jobs(db: Session, project_id: str) -> int:
    """Jobs that are queued or running."""
    return db.scalars(select(func.count()).where(Job.project_id == project_id, Job.state.in_(JOB_OPEN))).one()


def running_candidates(db: Session, project_id: str) -> int:
    """Candidates that are being built now."""
    building = (Step.project_id == project_id, Step.kind == "build", Step.state == "running")
    return db.scalars(select(func.count()).where(*building)).one()


def waiting_builds(db: Session, project_id: str, count: int) -> list[str]:
    """Builds of a project that wait for their turn, oldest first."""
    waiting = (Step.project_id == project_id, Step.kind == "build", Step.state == "queued")
    return list(db.scalars(select(Step.id).where(*waiting).order_by(Step.id).limit(count)))


def _receiving(project_id: str) -> Select[int]:
    return select(Upload.length).where(Upload.project_id == project_id, Upload.state == "receiving")


def _sum(db: Session, digests: Select[str] | Select[str | None]) -> int:
    total = select(func.coalesce(func.sum(Blob.size), 0)).where(Blob.sha256.in_(digests))
    return int(db.scalars(total).one())
