"""Removing rows that are too old to be looked at, some hundred at once.

Ids sort by time, so each statement reads the old end of a primary key, or of an index that has no others.
"""

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from app.db.base import first_id
from app.db.models import PASSING, Event, Step, StepLog
from app.db.queries.statements import changed
from app.db.webhooks import Delivery, DeliveryAttempt

AT_ONCE = 500


def printed(db: Session, before_us: int) -> int:
    """Remove what the engine printed in steps made before this time."""
    old = select(StepLog.step_id).where(StepLog.step_id < first_id("stp", before_us))
    some = old.order_by(StepLog.step_id).limit(AT_ONCE)
    return changed(db, delete(StepLog).where(StepLog.step_id.in_(some)))


def steps(db: Session, before_us: int) -> int:
    """Remove steps that were made before this time, have ended and were counted."""
    counted = or_(Step.tallied.is_(None), Step.tallied.is_(True))
    ended = (Step.id < first_id("stp", before_us), Step.finished_at.is_not(None), counted)
    chosen = select(Step.id).where(*ended).order_by(Step.id).limit(AT_ONCE).with_for_update(skip_locked=True)
    old = db.scalars(chosen).all()
    db.execute(delete(StepLog).where(StepLog.step_id.in_(old)))
    return changed(db, delete(Step).where(Step.id.in_(old)))


def passing_events(db: Session, before_us: int) -> int:
    """Remove events from before this time that only told how far a job was."""
    old = select(Event.id).where(PASSING, Event.id < first_id("evt", before_us))
    return changed(db, delete(Event).where(Event.id.in_(old.order_by(Event.id).limit(AT_ONCE))))


def deliveries(db: Session, before_us: int) -> int:
    """Remove deliveries that were made before this time and have ended, with their attempts and steps."""
    ended = (Delivery.id < first_id("dlv", before_us), Delivery.finished_at.is_not(None))
    chosen = select(Delivery.id).where(*ended).order_by(Delivery.id).limit(AT_ONCE)
    old = db.scalars(chosen.with_for_update(skip_locked=True)).all()
    db.execute(delete(DeliveryAttempt).where(DeliveryAttempt.delivery_id.in_(old)))
    db.execute(
        delete(Step).where(Step.subject_id.in_(old), Step.kind == "deliver", Step.finished_at.is_not(None))
    )
    return changed(db, delete(Delivery).where(Delivery.id.in_(old)))
