"""What the one poll of an API process asks about the jobs that somebody watches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.models import Event, Job, Step
from app.domain.job import JOB_ENDED
from app.domain.plan import progress


@dataclass(frozen=True)
class Pulse:
    """A job at one moment: whether it has ended, its last event, its progress from 0 to 1."""

    ended: bool
    last: int
    progress: float


def pulses(db: Session, job_ids: Sequence[str]) -> dict[str, Pulse]:
    """All of them by two statements; an end is only seen together with every event of that job."""
    last = select(func.coalesce(func.max(Event.seq), 0)).where(Event.subject_id == Job.id).scalar_subquery()
    found = db.execute(select(Job.id, Job.state, last).where(Job.id.in_(job_ids))).all()
    jobs = [(job_id, state in JOB_ENDED, seq) for job_id, state, seq in found]
    shares = _shares(db, [job_id for job_id, ended, _ in jobs if not ended])
    return {
        job_id: Pulse(ended, seq, 1.0 if ended else progress(shares.get(job_id, {})))
        for job_id, ended, seq in jobs
    }


def events_after(db: Session, job_id: str, seq: int) -> Sequence[Event]:
    """A job's events behind this one, in order."""
    later = select(Event).where(Event.subject_id == job_id, Event.seq > seq)
    return db.scalars(later.order_by(Event.seq)).all()


def _shares(db: Session, job_ids: Sequence[str]) -> Mapping[str, dict[str, float]]:
    """The mean progress of each kind of step, by job."""
    means = select(Step.job_id, Step.kind, func.avg(Step.progress)).where(Step.job_id.in_(job_ids))
    found: dict[str, dict[str, float]] = {}
    for job_id, kind, mean in db.execute(means.group_by(Step.job_id, Step.kind)):
        found.setdefault(str(job_id), {})[kind] = mean
    return found
