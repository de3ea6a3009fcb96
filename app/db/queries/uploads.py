"""Resumable uploads: the lease of whoever sends, and the fence that keeps everybody else's bytes out."""

from collections.abc import Sequence

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, now_us
from app.db.models import Upload
from app.db.queries.statements import changed


def advance_upload(
    db: Session, upload_id: str, writer: int, size: int, *, seconds: float | None, keep_seconds: int
) -> bool:
    """Count durable bytes and renew the lease, or end it with None; False: it is not ours any more."""
    lease = None if seconds is None else now_us() + int(seconds * MICROSECONDS)
    mine = (Upload.id == upload_id, Upload.writer == writer, Upload.state == "receiving")
    values = {"size": size, "lease_until": lease, "expires_at": now_us() + keep_seconds * MICROSECONDS}
    return changed(db, update(Upload).where(*mine).values(values)) == 1


def expired_uploads(db: Session) -> Sequence[str]:
    """Unfinished uploads that are past their time and that nobody sends."""
    idle = or_(Upload.lease_until.is_(None), Upload.lease_until <= now_us())
    late = (Upload.state == "receiving", Upload.expires_at <= now_us(), idle)
    return db.scalars(select(Upload.id).where(*late).limit(100)).all()
