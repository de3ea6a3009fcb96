"""The log of transitions."""

from sqlalchemy import (
    func,
    select,
)
from sqlalchemy.orm import Session

from app.db.models import (
    Event,
)


def next_seq(db: Session, subject_id: str) -> int:
    """The next event number of a subject; its row is locked by the caller."""
    return db.scalars(
        select(func.coalesce(func.max(Event.seq), 0) + 1).where(Event.subject_id == subject_id)
    ).one()
