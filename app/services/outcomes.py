"""How a step ends, in one transaction: the fence, the result, and what comes next.

Locks are taken in the order project, job, candidates, steps.
"""

from collections.abc import Callable, Sequence

from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Step
from app.db.queries import webhooks
from app.domain.errors import Problem
from app.domain.job import JOB_ENDED
from app.domain.quota import Quotas
from app.services import candidates, datasets, jobs, models, quotas, steps
from app.services.steps import Claim, Stale
from app.storage import Storage

Record = Callable[[Session], None]
NO_QUOTAS = Quotas()


def begin(
    db: Session,
    step_id: str,
    worker: str,
    defaults: Quotas = NO_QUOTAS,
    sandbox: Sequence[str] = (),
) -> Claim | None:
    """Claim a step; the first one of a job sets the job running. What a quota forbids now stays queued.

    `sandbox` names the layers that hold the engine calls of this worker.
    """
    step = db.get(Step, step_id)
    if step is None or step.state != "queued":
        return None
    if step.kind == "build" and not quotas.may_build(db, step.project_id, defaults):
        return None
    job = queries.lock_job(db, step.job_id) if step.job_id else None
    claim = steps.claim(db, step_id, worker, sandbox)
    if claim and job:
        jobs.begin(db, job)
        if claim.kind == "build":
            candidates.start_building(db, claim.subject_id)
    return claim


def complete(db: Session, claim: Claim, record: Record) -> None:
    """Write a step's result and start what follows.

    Raises:
        Stale: The step is not ours any more; nothing may be written.
    """
    _lock(db, claim)
    if not queries.close_step(db, claim.step_id, claim.attempt, "done", None):
        raise Stale
    record(db)
    _follow(db, claim)


def fail(db: Session, storage: Storage, claim: Claim, problem: Problem) -> None:
    """A final failure: of the upload, the candidate, or the job, by the kind of step.

    Raises:
        Stale: The step is not ours any more.
    """
    _lock(db, claim)
    if not queries.close_step(db, claim.step_id, claim.attempt, "failed", problem):
        raise Stale
    match claim.kind:
        case "inspect_version":
            models.reject(db, storage, claim.subject_id, problem)
        case "inspect_dataset":
            datasets.reject(db, storage, claim.subject_id, problem)
        case "build":
            candidates.failed(db, claim.subject_id, problem)
    _follow(db, claim)


def lose(db: Session, storage: Storage, claim: Claim, detail: str, wait_s: float = 0) -> None:
    """A worker or its child was killed and nobody here ordered it: try again, three times at most.

    A delivery is tried again until it was attempted: no loss is its receiver's fault, and it is promised.
    """
    _lock(db, claim)
    if claim.kind == "deliver" or claim.losses + 1 < steps.LOSSES_ALLOWED:
        steps.hand_back(db, claim, lost=True, wait_s=wait_s)
        return
    text = f"{claim.kind} was lost {steps.LOSSES_ALLOWED} times; the last time: {detail}"
    fail(db, storage, claim, Problem("worker_lost", text, retryable=True))


def recover(db: Session, storage: Storage, step_id: str) -> None:
    """Count a step whose lease ran out as lost."""
    step = db.get_one(Step, step_id)
    claim = Claim(
        step.id, step.attempt, step.kind, step.subject_id, step.job_id, step.project_id, step.losses
    )
    _lock(db, claim)
    if not queries.lease_expired(db, step.id):
        raise Stale
    lose(db, storage, claim, "its worker was not heard of for 30 s")


def _lock(db: Session, claim: Claim) -> None:
    if claim.kind == "deliver":
        webhooks.lock_endpoint_of(db, claim.subject_id)
    if claim.job_id and queries.lock_job(db, claim.job_id).state in JOB_ENDED:
        raise Stale


def _follow(db: Session, claim: Claim) -> None:
    if claim.job_id:
        jobs.advance(db, claim.job_id)
    else:
        jobs.advance_users(db, claim.project_id, claim.subject_id)
