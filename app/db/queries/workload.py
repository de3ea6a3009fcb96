"""What the service has to do now, for an operator's metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.base import now_us
from app.db.models import Job, Step


@dataclass(frozen=True)
class Workload:
    """Counts of open steps by kind and state, ages in microseconds by kind, jobs by state, and losses."""

    steps: Sequence[tuple[str, str, int]]
    ages: Sequence[tuple[str, int]]
    jobs: Sequence[tuple[str, int]]
    losses: int


def read(db: Session) -> Workload:
    """By four statements, each of which an index serves."""
    is_open = Step.state.in_(["queued", "running"])
    steps = select(Step.kind, Step.state, func.count()).where(is_open).group_by(Step.kind, Step.state)
    age = now_us() - func.min(Step.created_at)
    ages = select(Step.kind, age).where(Step.state == "queued", Step.not_before <= now_us())
    jobs = select(Job.state, func.count()).group_by(Job.state)
    losses = select(func.coalesce(func.sum(Step.losses), 0)).where(Step.losses > 0)
    return Workload(
        [(kind, state, count) for kind, state, count in db.execute(steps)],
        [(kind, max(found, 0)) for kind, found in db.execute(ages.group_by(Step.kind))],
        [(state, count) for state, count in db.execute(jobs)],
        db.scalars(losses).one(),
    )
