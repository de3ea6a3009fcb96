"""Counting what has ended: each step and each job once, so that totals outlive the rows."""

from collections.abc import Mapping, Sequence

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.models import UNTALLIED, Job, Step
from app.db.operations import Tally
from app.db.queries.statements import insert
from app.domain.tally import JOB, Ended, Key, Sum

AT_ONCE = 1000


def mark_steps(db: Session) -> Sequence[Ended]:
    """Steps that ended and were not counted yet, marked as counted: at most a thousand."""
    took = Step.finished_at - func.coalesce(Step.started_at, Step.finished_at)
    marked = update(Step).where(Step.id.in_(_uncounted(db, Step))).values(tallied=True)
    found = marked.returning(Step.kind, Step.state, Step.problem, Step.attempt, Step.losses, took)
    return [
        Ended(kind, state, problem.code if problem else "", attempts, losses, us or 0)
        for kind, state, problem, attempts, losses, us in db.execute(found)
    ]


def mark_jobs(db: Session) -> Sequence[Ended]:
    """The same for jobs; they last from their creation on."""
    marked = update(Job).where(Job.id.in_(_uncounted(db, Job))).values(tallied=True)
    found = marked.returning(Job.state, Job.problem, Job.finished_at - Job.created_at)
    return [
        Ended(JOB, state, problem.code if problem else "", 1, 0, us or 0)
        for state, problem, us in db.execute(found)
    ]


def _uncounted(db: Session, table: type[Step] | type[Job]) -> Sequence[str]:
    """Locked, as far as nobody else has them."""
    chosen = select(table.id).where(UNTALLIED).order_by(table.finished_at).limit(AT_ONCE)
    return db.scalars(chosen.with_for_update(skip_locked=True)).all()


def add(db: Session, sums: Mapping[Key, Sum]) -> None:
    """Add to the tallies, in the order given."""
    for key, more in sums.items():
        values = {"kind": key.kind, "outcome": key.outcome, "code": key.code, "up_to": key.up_to}
        statement = insert(db, Tally).values(**values, count=more.count, total=more.total, losses=more.losses)
        grown = {
            name: getattr(Tally, name) + getattr(statement.excluded, name)
            for name in ("count", "total", "losses")
        }
        db.execute(statement.on_conflict_do_update(index_elements=list(values), set_=grown))


def tallies(db: Session) -> Sequence[tuple[Key, Sum]]:
    """Everything that was counted."""
    return [
        (Key(row.kind, row.outcome, row.code, row.up_to), Sum(row.count, row.total, row.losses))
        for row in db.scalars(select(Tally))
    ]
