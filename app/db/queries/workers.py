"""Worker processes that are there, and what holds their engine calls."""

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, now_us
from app.db.models import Worker
from app.db.queries.statements import insert

SEEN_FOR = 180 * MICROSECONDS


def see_worker(db: Session, name: str, queues: Sequence[str], sandbox: Mapping[str, bool]) -> None:
    """Note that this worker is there now."""
    values = {"name": name, "queues": list(queues), "sandbox": dict(sandbox), "seen_at": now_us()}
    statement = insert(db, Worker).values(values)
    db.execute(
        statement.on_conflict_do_update(index_elements=["name"], set_={"seen_at": statement.excluded.seen_at})
    )


def forget_worker(db: Session, name: str) -> None:
    """This worker stops."""
    db.execute(delete(Worker).where(Worker.name == name))


def forget_silent_workers(db: Session) -> None:
    """Whoever was not seen for three minutes is gone."""
    db.execute(delete(Worker).where(Worker.seen_at < now_us() - SEEN_FOR))


def workers(db: Session) -> Sequence[Worker]:
    """Those seen in the last three minutes."""
    return db.scalars(select(Worker).where(Worker.seen_at >= now_us() - SEEN_FOR)).all()
