"""Blobs, and which project may refer to them."""

from collections.abc import Collection, Sequence

from sqlalchemy import (
    and_,
    case,
    delete,
    func,
    select,
    union_all,
)
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, now_us
from app.db.models import (
    Artifact,
    Blob,
    Dataset,
    ProjectBlob,
    UploadPart,
    Version,
    VersionFile,
)
from app.db.queries.statements import insert, locked
from app.db.session import across_projects


def insert_blob(db: Session, sha256: str, key: str, size: int) -> str:
    """Record a blob and lock its row; the answer is the key under which the store has these bytes.

    What was damaged lies under the new key from then on.
    """
    now = now_us()
    statement = insert(db, Blob).values(sha256=sha256, key=key, size=size, created_at=now, checked_at=now)
    damaged = Blob.damaged_at.is_not(None)  # an update, also one that changes nothing, locks the row
    same = {
        "key": case((damaged, statement.excluded.key), else_=Blob.key),
        "checked_at": case((damaged, now), else_=Blob.checked_at),
        "damaged_at": None,
    }
    kept = statement.on_conflict_do_update(index_elements=["sha256"], set_=same).returning(Blob.key)
    return db.scalars(kept).one()


def grant_blob(db: Session, project_id: str, sha256: str, seconds: int) -> None:
    """Let a project refer to these bytes for a while, or as long as it might before, if that is longer."""
    until = now_us() + seconds * MICROSECONDS
    statement = insert(db, ProjectBlob).values(project_id=project_id, sha256=sha256, expires_at=until)
    given = statement.excluded.expires_at
    longer = {"expires_at": case((ProjectBlob.expires_at > given, ProjectBlob.expires_at), else_=given)}
    db.execute(statement.on_conflict_do_update(index_elements=["project_id", "sha256"], set_=longer))


def project_blob(db: Session, project_id: str, sha256: str, *, keep: bool = False) -> Blob | None:
    """The blob, when this project may refer to it; with `keep` it cannot go before the transaction ends.

    None also for one that is damaged: it has to be sent again.
    """
    mine = and_(ProjectBlob.sha256 == Blob.sha256, ProjectBlob.project_id == project_id)
    found = select(Blob).join(ProjectBlob, mine).where(Blob.sha256 == sha256, Blob.damaged_at.is_(None))
    if keep:  # in a statement of its own: one that waits for a lock goes on with what it saw before
        db.execute(select(Blob.sha256).where(Blob.sha256 == sha256).with_for_update(read=True))
    return db.scalars(found).one_or_none()


def is_of_project(db: Session, project_id: str, sha256: str) -> bool:
    """Whether the bytes count among a project's, be they damaged or not."""
    return db.get(ProjectBlob, (project_id, sha256)) is not None


def blob(db: Session, sha256: str) -> Blob:
    """A blob that some row refers to."""
    return db.get_one(Blob, sha256)


def known_keys(db: Session, keys: Collection[str]) -> set[str]:
    """Those of the store's keys that a blob or a part of an upload has."""
    blobs = select(Blob.key).where(Blob.key.in_(keys))
    parts = select(UploadPart.key).where(UploadPart.key.in_(keys))
    return set(db.scalars(union_all(blobs, parts)))


def blob_references(db: Session, project_id: str, sha256: str) -> int:
    """How many rows of a project refer to these bytes."""
    files = select(VersionFile.sha256).join(Version).where(Version.project_id == project_id)
    datasets = select(Dataset.sha256).where(Dataset.project_id == project_id)
    artifacts = select(Artifact.sha256).where(Artifact.project_id == project_id)
    every = union_all(files, datasets, artifacts).subquery()
    return db.scalars(select(func.count()).select_from(every).where(every.c.sha256 == sha256)).one()


def expired_grants(db: Session) -> Sequence[tuple[str, str]]:
    """Project and hash of bytes whose time is over, and that nothing of the project refers to."""
    used = [
        select(VersionFile.sha256).join(Version).where(Version.project_id == ProjectBlob.project_id),
        select(Dataset.sha256).where(Dataset.project_id == ProjectBlob.project_id),
        select(Artifact.sha256).where(Artifact.project_id == ProjectBlob.project_id),
    ]
    same = [chosen.where(chosen.selected_columns[0] == ProjectBlob.sha256) for chosen in used]
    unused = [~chosen.correlate(ProjectBlob).exists() for chosen in same]
    late = select(ProjectBlob.project_id, ProjectBlob.sha256).where(
        ProjectBlob.expires_at <= now_us(), *unused
    )
    return [(project, sha256) for project, sha256 in db.execute(late.limit(100))]


def lock_blob(db: Session, sha256: str) -> Blob | None:
    """The blob, locked until the transaction ends: nobody can begin to refer to it meanwhile."""
    return db.scalars(locked(select(Blob).where(Blob.sha256 == sha256))).one_or_none()


def has_expired(db: Session, project_id: str, sha256: str) -> bool:
    """Whether a project's right to these bytes ran out; the caller has locked them."""
    mine = (ProjectBlob.project_id == project_id, ProjectBlob.sha256 == sha256)
    return bool(
        db.scalars(select(ProjectBlob.sha256).where(*mine, ProjectBlob.expires_at <= now_us())).first()
    )


def forget_blob(db: Session, project_id: str, sha256: str) -> str | None:
    """End a project's right to these bytes; the store's key, when nobody is left who has one.

    The caller has locked the blob.
    """
    row = db.get(Blob, sha256)
    if row is None:
        return None
    mine = ProjectBlob.project_id == project_id
    db.execute(delete(ProjectBlob).where(ProjectBlob.sha256 == sha256, mine))
    with across_projects(db):
        if db.scalars(select(ProjectBlob.sha256).where(ProjectBlob.sha256 == sha256).limit(1)).first():
            return None
    db.delete(row)
    return row.key
