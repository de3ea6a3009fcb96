"""How much of what a project has and does."""

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, first_id
from app.db.models import Artifact, Blob, Dataset, Job, ProjectBlob, Step, Version, VersionFile
from app.db.queries.statements import now
from app.domain.job import JOB_OPEN

DAY = 24 * 3600 * MICROSECONDS


def bytes_stored(db: Session, project_id: str) -> int:
    """Bytes of all blobs of a project, each counted once."""
    return _sum(db, select(ProjectBlob.sha256).where(ProjectBlob.project_id == project_id))


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


def _sum(db: Session, digests: Select[str] | Select[str | None]) -> int:
    total = select(func.coalesce(func.sum(Blob.size), 0)).where(Blob.sha256.in_(digests))
    return int(db.scalars(total).one())
