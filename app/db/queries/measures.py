"""Figures that are measured now and then, and kept for whoever asks meanwhile."""

from collections.abc import Mapping

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from app.db.base import now_us
from app.db.models import Artifact, Blob, Dataset, Upload, VersionFile
from app.db.operations import Measure
from app.db.queries.statements import insert


def measures(db: Session) -> Mapping[str, Measure]:
    """All of them by name."""
    return {row.name: row for row in db.scalars(select(Measure))}


def age_us(db: Session, name: str) -> int | None:
    """How long ago this was measured; None when it never was."""
    return db.scalars(select(now_us() - Measure.measured_at).where(Measure.name == name)).one_or_none()


def keep(db: Session, name: str, value: int) -> None:
    """This was measured now."""
    statement = insert(db, Measure).values(name=name, value=value, measured_at=now_us())
    newer = {"value": statement.excluded.value, "measured_at": statement.excluded.measured_at}
    db.execute(statement.on_conflict_do_update(index_elements=["name"], set_=newer))


def all_blobs(db: Session) -> tuple[int, int]:
    """How many blobs there are, and how many bytes they have."""
    return _count_and_bytes(db, select(Blob.size))


def used_blobs(db: Session) -> tuple[int, int]:
    """The same of those that a version, a dataset or an artifact refers to."""
    users = (VersionFile.sha256, Dataset.sha256, Artifact.sha256)
    used = or_(*(select(user).where(user == Blob.sha256).exists() for user in users))
    return _count_and_bytes(db, select(Blob.size).where(used))


def coming_uploads(db: Session) -> tuple[int, int]:
    """How many uploads are not complete, and how many bytes they have so far."""
    return _count_and_bytes(db, select(Upload.size).where(Upload.state == "receiving"))


def _count_and_bytes(db: Session, sizes: Select[int]) -> tuple[int, int]:
    found = sizes.subquery()
    count, total = db.execute(
        select(func.count(), func.coalesce(func.sum(found.c.size), 0)).select_from(found)
    ).one()
    return int(count), int(total)
