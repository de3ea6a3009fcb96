"""What the service has to do now and what it has done, for an operator's metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, case, func, or_, select
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, first_id, now_us
from app.db.models import Job, Step
from app.db.operations import Measure
from app.db.queries import measures, tallies, workers
from app.db.queries.statements import now
from app.domain.job import JOB_OPEN
from app.domain.tally import Key, Sum

HOUR = 3600 * MICROSECONDS
STEP_OPEN = ("queued", "running")


@dataclass(frozen=True)
class Workload:
    """Counts of open steps by kind and state, ages in microseconds by kind, jobs by state, and losses.

    `delayed` are those of the queued steps that wait for a time to come. `jobs` are the open ones, `recent`
    all that were made in the last hour. What has ended is in `tallies`, so that a scrape costs the same
    however many jobs there are. `workers` are the queues that each of them hears.
    """

    steps: Sequence[tuple[str, str, int]]
    delayed: Sequence[tuple[str, int]]
    ages: Sequence[tuple[str, int]]
    jobs: Sequence[tuple[str, int]]
    recent: Sequence[tuple[str, int]]
    losses: int
    tallies: Sequence[tuple[Key, Sum]]
    measures: Mapping[str, Measure]
    workers: Sequence[Sequence[str]]


def read(db: Session) -> Workload:
    """By a statement for each, which an index serves or whose table is small."""
    totals = tallies.tallies(db)
    return Workload(
        steps=_open_steps(db),
        delayed=_delayed(db),
        ages=_ages(db),
        jobs=_jobs(db, Job.state.in_(JOB_OPEN)),
        recent=_jobs(db, Job.id >= first_id("job", now(db) - HOUR)),
        losses=_uncounted_losses(db) + sum(found.losses for _, found in totals),
        tallies=totals,
        measures=measures.measures(db),
        workers=[worker.queues for worker in workers.workers(db)],
    )


def _open_steps(db: Session) -> Sequence[tuple[str, str, int]]:
    chosen = select(Step.kind, Step.state, func.count()).where(Step.state.in_(STEP_OPEN))
    found = db.execute(chosen.group_by(Step.kind, Step.state))
    return [(kind, state, count) for kind, state, count in found]


def _delayed(db: Session) -> Sequence[tuple[str, int]]:
    later = select(Step.kind, func.count()).where(Step.state == "queued", Step.not_before > now_us())
    return [(kind, count) for kind, count in db.execute(later.group_by(Step.kind))]


def _ages(db: Session) -> Sequence[tuple[str, int]]:
    """How long the one that has been free to run for the longest time waits, by kind."""
    free_since = case((Step.not_before > Step.created_at, Step.not_before), else_=Step.created_at)
    age = now_us() - func.min(free_since)
    waiting = select(Step.kind, age).where(Step.state == "queued", Step.not_before <= now_us())
    return [(kind, max(found, 0)) for kind, found in db.execute(waiting.group_by(Step.kind))]


def _jobs(db: Session, which: ColumnElement[bool]) -> Sequence[tuple[str, int]]:
    chosen = select(Job.state, func.count()).where(which).group_by(Job.state)
    return [(state, count) for state, count in db.execute(chosen)]


def _uncounted_losses(db: Session) -> int:
    uncounted = or_(Step.finished_at.is_(None), ~Step.tallied)
    return db.scalars(select(func.coalesce(func.sum(Step.losses), 0)).where(Step.losses > 0, uncounted)).one()
