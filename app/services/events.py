"""The log of transitions that progress, webhooks and audit read."""

from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Event


def record(db: Session, project_id: str, subject_id: str, kind: str, **data: object) -> None:
    """Write one event in this transaction; the caller holds the subject's lock."""
    seq = queries.next_seq(db, subject_id)
    db.add(Event(project_id=project_id, subject_id=subject_id, seq=seq, type=kind, data=data))
    db.flush()
