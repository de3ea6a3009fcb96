"""Steps: queued, claimed under a lease, closed behind a fence. The row is the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy.orm import Session

from app import broker
from app.db import queries
from app.db.models import Step
from app.db.queries import measures, webhooks
from app.db.queries.steps import FORGOT
from app.db.session import after_commit
from app.domain.errors import DomainError
from app.domain.patience import IN_FLIGHT
from app.tracing import traceparent

LOSSES_ALLOWED = 3
RINGS_PER_QUEUE = 200
NOTHING_WAITS: Mapping[str, int] = MappingProxyType({})


class Stale(DomainError):
    """Another attempt runs this step now; this one's result is dropped."""

    code = "stale"


@dataclass(frozen=True)
class Claim:
    """A step that this process runs; `attempt` is the fencing token of every later write."""

    step_id: str
    attempt: int
    kind: str
    subject_id: str
    job_id: str | None
    project_id: str
    losses: int
    troubles: int = 0
    traceparent: str | None = None

    @property
    def ids(self) -> dict[str, object]:
        """What the log says of it."""
        where = {"project": self.project_id, "job": self.job_id, "subject": self.subject_id}
        return {"step": self.step_id, "kind": self.kind, "attempt": self.attempt, **where}


def enqueue(
    db: Session, project_id: str, kind: str, subject_id: str, job_id: str | None = None, *, round_: int = 0
) -> Step:
    """Insert a queued step and ring for it once the transaction is committed."""
    step = Step(project_id=project_id, kind=kind, subject_id=subject_id, job_id=job_id, round=round_)
    step.traceparent = traceparent()
    db.add(step)
    db.flush()
    after_commit(db, broker.ring, step.id, kind)
    return step


def skip(db: Session, project_id: str, kind: str, subject_id: str, job_id: str) -> None:
    """Insert a step that is done before anybody runs it: its result was there."""
    now = queries.now(db)
    times = {"started_at": now, "finished_at": now}
    step = Step(project_id=project_id, kind=kind, subject_id=subject_id, job_id=job_id, **times)
    step.state, step.progress = "done", 1.0
    db.add(step)
    db.flush()


def claim(db: Session, step_id: str, worker: str, sandbox: Sequence[str] = ()) -> Claim | None:
    """Take a queued step, or None when it is not free: a doorbell rung twice is harmless."""
    attempt = queries.claim_step(db, step_id, worker, sandbox)
    if attempt is None:
        return None
    step = db.get_one(Step, step_id, populate_existing=True)
    ids = (step.id, attempt, step.kind, step.subject_id, step.job_id, step.project_id)
    return Claim(*ids, step.losses, step.troubles, step.traceparent)


def hand_back(
    db: Session, claim: Claim, *, lost: bool = False, trouble: bool = False, wait_s: float = 0
) -> None:
    """Return a step to the queue: its worker or child was lost, its host is in trouble, or its worker stops.

    Raises:
        Stale: The step is not ours any more.
    """
    ids = claim.step_id, claim.attempt
    if not queries.requeue_step(db, *ids, lost=lost, trouble=trouble, wait_s=wait_s):
        raise Stale
    if wait_s == 0:
        after_commit(db, broker.ring, claim.step_id, claim.kind)


def note_forgetting(db: Session) -> None:
    """The broker has lost everything: whatever was rung before now has to be rung again."""
    measures.keep(db, FORGOT, 0)


def ring_again(db: Session, waiting: Mapping[str, int] = NOTHING_WAITS) -> int:
    """Ring for queued steps that nobody seems to have heard of.

    A queue gets as many messages as fill it up to 200: while `waiting` says that it holds more, its workers
    have enough to hear, and a day's backlog must not be rung for every minute.
    """
    room = {queue: max(RINGS_PER_QUEUE - waiting.get(queue, 0), 0) for queue in broker.QUEUES.values()}
    found = list(webhooks.unheard(db, IN_FLIGHT, room.pop(broker.QUEUES["deliver"])))
    for queue, rings in room.items():
        kinds = [kind for kind, its in broker.QUEUES.items() if its == queue]
        found += queries.unheard_steps(db, kinds, rings)
    queries.mark_rung(db, [step.id for step in found])
    for step in found:
        after_commit(db, broker.ring, step.id, step.kind)
    return len(found)
