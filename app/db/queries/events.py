"""The log of transitions."""

from sqlalchemy import ScalarSelect, Select, func, select
from sqlalchemy.orm import aliased

from app.db.base import first_id
from app.db.models import Event


def next_seq(subject_id: str) -> ScalarSelect[int]:
    """The next event number of a subject, for an INSERT; the subject's row is locked by the caller."""
    last = aliased(Event)
    return (
        select(func.coalesce(func.max(last.seq), 0) + 1)
        .where(last.subject_id == subject_id)
        .scalar_subquery()
    )


def of_project(project_id: str, subject: str | None, kind: str | None, since_us: int | None) -> Select[Event]:
    """A project's events of one subject, of one type and since a time, as far as asked."""
    chosen = select(Event).where(Event.project_id == project_id)
    chosen = chosen.where(Event.subject_id == subject) if subject else chosen
    chosen = chosen.where(Event.type == kind) if kind else chosen
    return chosen.where(Event.id >= first_id("evt", since_us)) if since_us is not None else chosen
