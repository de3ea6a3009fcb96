"""Workers and hosts that take nothing more, because an operator said so."""

from collections.abc import Sequence

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from app.db.models import Step, Worker
from app.db.operations import Drain
from app.db.queries.statements import changed, insert


def names_of(worker: str) -> tuple[str, str]:
    """By what a worker can be named: itself (`host:pid`) and its host."""
    return worker, worker.rpartition(":")[0]


def drain(db: Session, name: str) -> None:
    """Let this worker, or all workers of this host, take nothing more."""
    db.execute(insert(db, Drain).values(name=name).on_conflict_do_nothing(index_elements=["name"]))


def undrain(db: Session, name: str) -> bool:
    """Let it take work again; False when it did already."""
    return changed(db, delete(Drain).where(Drain.name == name)) == 1


def drained(db: Session) -> Sequence[str]:
    """What takes nothing more."""
    return db.scalars(select(Drain.name).order_by(Drain.name)).all()


def is_drained(db: Session, worker: str) -> bool:
    """Whether this worker is to take nothing more."""
    return db.scalars(select(Drain.name).where(Drain.name.in_(names_of(worker)))).first() is not None


def running_there(db: Session, name: str) -> Sequence[str]:
    """The steps that run on this worker or host."""
    here = or_(Step.worker == name, Step.worker.startswith(f"{name}:", autoescape=True))
    return db.scalars(select(Step.id).where(Step.state == "running", here).order_by(Step.id)).all()


def forget_ended(db: Session) -> None:
    """A worker that is gone will not come back: its host's next one may have its number."""
    gone = Drain.name.contains(":") & Drain.name.not_in(select(Worker.name))
    changed(db, delete(Drain).where(gone))
