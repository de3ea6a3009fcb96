"""The log of transitions that progress, webhooks and audit read."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy.orm import Session

from app.db.models import Event
from app.db.queries.events import next_seq
from app.services import deliveries

# Who acts is known where work begins (a request, a step, a sweep) and needed where it is written down.
_actor: ContextVar[str] = ContextVar("actor", default="system")


@contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """Events recorded in this block are by this actor: a key's id, `worker` or `system`."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


def record(db: Session, project_id: str, subject_id: str, kind: str, **data: object) -> Event:
    """Write one event, and what is to be delivered of it; the caller holds the subject's lock."""
    event = Event(project_id=project_id, subject_id=subject_id, type=kind, data=data)
    event.seq = next_seq(subject_id)  # a flush takes SQL, and reads its value back
    event.actor = _actor.get()
    db.add(event)
    db.flush()
    deliveries.announce(db, event)
    return event
