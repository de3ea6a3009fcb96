"""Steps: claims, leases, fences, rings."""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import (
    ColumnElement,
    Update,
    and_,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from app.db.base import MICROSECONDS, now_us
from app.db.models import Job, Step
from app.db.operations import Measure
from app.db.queries.statements import changed
from app.domain.errors import Problem

LEASE = 30 * MICROSECONDS
RING_AGAIN = 60 * MICROSECONDS
SOON = 5 * MICROSECONDS
FORGOT = "broker.forgot"  # measured when the broker was seen to have lost everything


def job_steps(db: Session, job_id: str) -> Sequence[Step]:
    """The job's steps in the order of their creation, as they are now: the fence writes past the session."""
    found = select(Step).where(Step.job_id == job_id).order_by(Step.id)
    return db.scalars(found.execution_options(populate_existing=True)).all()


def troubles(db: Session, job_id: str) -> int:
    """How often steps of this job were put off by their hosts."""
    return db.scalar(select(func.sum(Step.troubles)).where(Step.job_id == job_id)) or 0


def load_steps(db: Session, jobs: Sequence[Job]) -> None:
    """Give each of these jobs its steps, by one statement."""
    if not jobs:
        return
    found = defaultdict[str | None, list[Step]](list)
    for step in db.scalars(select(Step).where(Step.job_id.in_([job.id for job in jobs])).order_by(Step.id)):
        found[step.job_id].append(step)
    for job in jobs:
        set_committed_value(job, "steps", found[job.id])


def claim_step(db: Session, step_id: str, worker: str, sandbox: Sequence[str] = ()) -> int | None:
    """Take a queued step by one compare-and-set: the attempt is its fencing token; None if it was taken."""
    statement = (
        update(Step)
        .where(Step.id == step_id, Step.state == "queued", Step.not_before <= now_us())
        .values(
            state="running",
            attempt=Step.attempt + 1,
            worker=worker,
            sandbox=list(sandbox) or None,
            lease_until=now_us() + LEASE,
            started_at=func.coalesce(Step.started_at, now_us()),
            progress=0.0,
        )
        .returning(Step.attempt)
    )
    return db.execute(statement, execution_options={"synchronize_session": False}).scalar_one_or_none()


def renew_lease(db: Session, step_id: str, attempt: int, progress: float) -> bool:
    """Whether the step is still ours; if so, for another 30 s."""
    statement = _mine(step_id, attempt).values(lease_until=now_us() + LEASE, progress=progress)
    return changed(db, statement) == 1


def close_step(db: Session, step_id: str, attempt: int, state: str, problem: Problem | None) -> bool:
    """End a step that is still ours. False: somebody else has it, the result is stale."""
    ended = _mine(step_id, attempt).values(
        state=state, problem=problem, finished_at=now_us(), lease_until=None, progress=1.0
    )
    return changed(db, ended) == 1


def requeue_step(
    db: Session, step_id: str, attempt: int, *, lost: bool, trouble: bool, wait_s: float
) -> bool:
    """Hand a step that is still ours back to the queue; losses and troubles are counted, stops are not."""
    statement = _mine(step_id, attempt).values(
        state="queued",
        losses=Step.losses + int(lost),
        troubles=Step.troubles + int(trouble),
        worker=None,
        lease_until=None,
        rung_at=now_us() - RING_AGAIN + SOON,  # should this process end before it has rung, a sweep does
        not_before=now_us() + int(wait_s * MICROSECONDS) if wait_s else 0,
    )
    return changed(db, statement) == 1


def cancel_steps(db: Session, job_id: str) -> None:
    """End every open step of a job; who runs one learns it at the next heartbeat."""
    open_steps = update(Step).where(Step.job_id == job_id, Step.state.in_(["queued", "running"]))
    db.execute(open_steps.values(state="canceled", finished_at=now_us(), lease_until=None))


def expired_leases(db: Session) -> Sequence[Step]:
    """Running steps whose worker has not been heard of for 30 s."""
    late = select(Step).where(Step.state == "running", Step.lease_until < now_us())
    return db.scalars(late.order_by(Step.lease_until).limit(200)).all()


def lease_expired(db: Session, step_id: str) -> bool:
    """Whether nobody renewed the lease in the meantime; locks the step."""
    late = select(Step.id).where(Step.id == step_id, Step.state == "running", Step.lease_until < now_us())
    return db.scalars(late.with_for_update()).one_or_none() is not None


def unheard_steps(db: Session, kinds: Sequence[str], limit: int) -> Sequence[Step]:
    """Queued steps of these kinds to ring again: nobody can have heard them, or due since the last ring."""
    due = and_(Step.not_before > Step.rung_at, Step.not_before <= now_us())
    found = select(Step).where(Step.state == "queued", Step.not_before <= now_us(), or_(is_unheard(), due))
    return db.scalars(found.where(Step.kind.in_(kinds)).order_by(Step.rung_at).limit(limit)).all()


def is_unheard() -> ColumnElement[bool]:
    """Rung over 60 s ago, or before the broker forgot everything."""
    forgot = select(Measure.measured_at).where(Measure.name == FORGOT).scalar_subquery()
    return or_(Step.rung_at < now_us() - RING_AGAIN, Step.rung_at < func.coalesce(forgot, 0))


def mark_rung(db: Session, step_ids: Sequence[str]) -> None:
    """Note that these steps are being rung now."""
    db.execute(update(Step).where(Step.id.in_(step_ids)).values(rung_at=now_us()))


def _mine(step_id: str, attempt: int) -> Update:
    """The fence: only the attempt that runs the step may write to it."""
    return update(Step).where(Step.id == step_id, Step.attempt == attempt, Step.state == "running")
