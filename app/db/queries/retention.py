"""What nobody used for long, and what is left of it once it has expired.

Ids sort by time: what was made before a moment has a smaller id than the first of that moment.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db.base import first_id, made_at, now_us
from app.db.models import WEIGHTY, Artifact, Dataset, Job, Version
from app.db.queries.statements import changed, locked
from app.db.retention import ExpiredArtifact
from app.domain.retention import EVIDENCE

AT_ONCE = 100
ARTIFACTS_AT_ONCE = 500
USED_AS: dict[type[Version] | type[Dataset], tuple[InstrumentedAttribute[str | None], ...]] = {
    Version: (Job.version_id,),
    Dataset: (Job.calibration_id, Job.evaluation_id),
}


def idle_versions(db: Session, project_id: str, since_us: int) -> Sequence[str]:
    """Some versions that are older than this and that no later job took, the oldest first."""
    return db.scalars(_idle_versions(project_id, since_us).order_by(Version.id).limit(AT_ONCE)).all()


def idle_datasets(db: Session, project_id: str, since_us: int) -> Sequence[str]:
    """The same of datasets."""
    return db.scalars(_idle_datasets(project_id, since_us).order_by(Dataset.id).limit(AT_ONCE)).all()


def lock_idle_version(db: Session, project_id: str, version_id: str, since_us: int) -> Version | None:
    """The version, locked, if nobody came to use it meanwhile."""
    row = db.scalars(locked(select(Version).where(Version.id == version_id))).one()
    idle = _idle_versions(project_id, since_us).where(Version.id == version_id)
    return row if db.scalars(idle).first() else None  # a statement of its own sees who had the lock before


def lock_idle_dataset(db: Session, project_id: str, dataset_id: str, since_us: int) -> Dataset | None:
    """The same of a dataset."""
    row = db.scalars(locked(select(Dataset).where(Dataset.id == dataset_id))).one()
    idle = _idle_datasets(project_id, since_us).where(Dataset.id == dataset_id)
    return row if db.scalars(idle).first() else None


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


def _idle_versions(project_id: str, since_us: int) -> Select[str]:
    mine = (Version.project_id == project_id, Version.expired_at.is_(None), Version.deleted_at.is_(None))
    old = (Version.id < first_id("ver", since_us), func.coalesce(Version.imported_at, 0) < since_us)
    return select(Version.id).where(*mine, *old, Version.state == "ready", _unused(Version, since_us))


def _idle_datasets(project_id: str, since_us: int) -> Select[str]:
    mine = (Dataset.project_id == project_id, Dataset.expired_at.is_(None), Dataset.deleted_at.is_(None))
    old = Dataset.id < first_id("dst", since_us)
    return select(Dataset.id).where(*mine, old, Dataset.state == "ready", _unused(Dataset, since_us))


def _unused(table: type[Version] | type[Dataset], since_us: int) -> ColumnElement[bool]:
    """No job that was made since then takes it, and none that is open."""
    later = Job.id >= first_id("job", since_us)
    users = [select(Job.id).where(column == table.id, later) for column in USED_AS[table]]
    return ~users[0].exists() if len(users) == 1 else ~(users[0].exists() | users[1].exists())
