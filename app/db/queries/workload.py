"""What the service has to do now, for an operator's metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, first_id, now_us
from app.db.models import Job, Step
from app.db.queries.statements import now
from app.domain.job import JOB_OPEN

HOUR = 3600 * MICROSECONDS


@dataclass(frozen=True)
class Workload:
    """Counts of open steps by kind and state, ages in microseconds by kind, jobs by state, and losses.

    `jobs` are the open ones, `recent` all that were made in the last hour: what has ended long ago is left
    out, so that a scrape costs the same however many jobs there are.
    """

    steps: Sequence[tuple[str, str, int]]
    ages: Sequence[tuple[str, int]]
    jobs: Sequence[tuple[str, int]]
    recent: Sequence[tuple[str, int]]
    losses: int


def read(db: Session) -> Workload:
    """By five statements, each of which an index serves."""
    is_open = Step.state.in_(["queued", "running"])
    steps = select(Step.kind, Step.state, func.count()).where(is_open).group_by(Step.kind, Step.state)
    age = now_us() - func.min(Step.created_at)
    ages = select(Step.kind, age).where(Step.state == "queued", Step.not_before <= now_us())
    jobs = select(Job.state, func.count()).group_by(Job.state)
    hour_ago = first_id("job", now(db) - HOUR)
    losses = select(func.coalesce(func.sum(Step.losses), 0)).where(Step.losses > 0)
    return Workload(
        [(kind, state, count) for kind, state, count in db.execute(steps)],
        [(kind, max(found, 0)) for kind, found in db.execute(ages.group_by(Step.kind))],
        [(state, count) for state, count in db.execute(jobs.where(Job.state.in_(JOB_OPEN)))],
        [(state, count) for state, count in db.execute(jobs.where(Job.id >= hour_ago))],
        db.scalars(losses).one(),
    )
