"""Which blobs are to be read again, and which of them are damaged."""

from collections.abc import Sequence

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.base import now_us
from app.db.models import Blob, ProjectBlob
from app.db.queries.statements import changed


def unchecked_blobs(db: Session, age_us: int, limit: int) -> Sequence[Blob]:
    """Blobs that were not read for so long, the longest first."""
    due = select(Blob).where(Blob.checked_at < now_us() - age_us)
    return db.scalars(due.order_by(Blob.checked_at).limit(limit)).all()


def check_blob(db: Session, sha256: str) -> None:
    """This is being read now."""
    changed(db, update(Blob).where(Blob.sha256 == sha256).values(checked_at=now_us()))


def heal_blob(db: Session, sha256: str, key: str) -> None:
    """The object under this key is what it was after all."""
    changed(db, update(Blob).where(Blob.sha256 == sha256, Blob.key == key).values(damaged_at=None))


def check_blob_at(db: Session, sha256: str, checked_at: int) -> None:
    """Take this for read at that time, which says when it is read again."""
    changed(db, update(Blob).where(Blob.sha256 == sha256).values(checked_at=checked_at))


def suspect_blob(db: Session, sha256: str) -> None:
    """This is to be read soon."""
    check_blob_at(db, sha256, 0)


def damage_blob(db: Session, sha256: str, key: str, checked_at: int) -> bool:
    """The object under this key is not what it was; False: the blob is gone, or lies elsewhere by now."""
    same = (Blob.sha256 == sha256, Blob.key == key, Blob.damaged_at.is_(None))
    return changed(db, update(Blob).where(*same).values(damaged_at=now_us(), checked_at=checked_at)) == 1


def holders(db: Session, sha256: str) -> Sequence[str]:
    """The projects that have these bytes."""
    mine = select(ProjectBlob.project_id).where(ProjectBlob.sha256 == sha256)
    return db.scalars(mine.order_by(ProjectBlob.project_id)).all()


def damaged_blobs(db: Session) -> tuple[int, int]:
    """How many blobs are damaged, and how many bytes they had."""
    total = func.coalesce(func.sum(Blob.size), 0)
    count, size = db.execute(select(func.count(), total).where(Blob.damaged_at.is_not(None))).one()
    return int(count), int(size)
