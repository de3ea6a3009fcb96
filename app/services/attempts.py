"""One attempt to deliver: who may make it now, and what comes of it.

Locks are taken in the order endpoint, deliveries, steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from sqlalchemy.orm import Session

from app.db import queries
from app.db.base import MICROSECONDS
from app.db.models import Step
from app.db.queries import webhooks as stored
from app.db.webhooks import Delivery, DeliveryAttempt, WebhookEndpoint
from app.domain import patience, webhook
from app.domain.errors import Problem
from app.services import endpoints, steps
from app.services.steps import Claim, Stale


class Attempt(Protocol):
    """What came of one request: a status, or the code of an error, and the start of the answer, escaped."""

    @property
    def status(self) -> int | None: ...
    @property
    def milliseconds(self) -> int: ...
    @property
    def body(self) -> str: ...
    @property
    def error(self) -> str | None: ...
    @property
    def detail(self) -> str | None: ...
    @property
    def retry_after(self) -> str | None: ...


@dataclass(frozen=True)
class Message:
    """What is to be sent by whoever made this claim; the secrets are sealed."""

    claim: Claim
    url: str
    secrets: tuple[bytes, ...]
    message_id: str
    payload: dict[str, Any]
    timestamp: int  # what it is signed with: seconds by the database's clock, which all workers share


def look(db: Session, step_id: str) -> WebhookEndpoint | None:
    """The endpoint that this delivery could be sent to now, as far as one can see without its lock."""
    found = stored.due_at(db, step_id)
    if found is None:
        return None
    endpoint, delivery, rests = found
    return endpoint if _has_turn(db, endpoint, delivery, rests=rests) else None


def is_proven(endpoint: WebhookEndpoint) -> bool:
    """Whether the last attempt at this endpoint delivered."""
    return endpoint.delivered_at is not None and endpoint.failures == 0


def begin(db: Session, step_id: str, worker: str) -> Message | None:
    """Claim a delivery, unless its endpoint has enough in flight or rests; a closed endpoint cancels it."""
    step = db.get(Step, step_id)
    if step is None or step.state != "queued":
        return None
    endpoint, now = stored.lock_endpoint_of(db, step.subject_id), queries.now(db)
    delivery = stored.fresh_delivery(db, step.subject_id)
    if _is_closed(endpoint, delivery):
        stored.cancel_pending(db, endpoint.id)
        return None
    if not _has_turn(db, endpoint, delivery, rests=endpoint.rest_until > now):
        return None
    claim = steps.claim(db, step_id, worker)
    if claim is None:
        return None
    secrets, timestamp = _secrets(endpoint, now), now // MICROSECONDS
    return Message(claim, endpoint.url, secrets, delivery.message_id, delivery.payload, timestamp)


def record(db: Session, claim: Claim, attempt: Attempt, jitter: float) -> Sequence[str]:
    """Write down what came of an attempt and when the next one is; the steps that are next in turn.

    Raises:
        Stale: The delivery is not ours any more; nothing may be written.
    """
    endpoint = stored.lock_endpoint_of(db, claim.subject_id)
    delivery = stored.fresh_delivery(db, claim.subject_id)
    now = queries.now(db)
    if stored.was_canceled(db, claim.step_id, claim.attempt):
        _log(db, delivery, attempt)  # nothing follows from it, but the receiver may have the message
        return ()
    delivery.tries += 1
    _log(db, delivery, attempt)
    if attempt.status is not None and webhook.succeeded(attempt.status):
        _delivered(db, claim, endpoint, delivery, now)
    else:
        _not_delivered(db, claim, delivery, attempt, jitter, now)
        if delivery.type != webhook.PING:
            _blame(db, endpoint, attempt, now)
    return _next_in_turn(db, endpoint, now)


def _delivered(db: Session, claim: Claim, endpoint: WebhookEndpoint, delivery: Delivery, now: int) -> None:
    _close(db, claim, delivery, "delivered", None, now)
    endpoint.delivered_at, endpoint.failures, endpoint.failing_since, endpoint.rest_until = now, 0, None, 0


def _not_delivered(
    db: Session, claim: Claim, delivery: Delivery, attempt: Attempt, jitter: float, now: int
) -> None:
    wait_s = _wait_s(delivery, attempt, jitter, now)
    if wait_s is None:
        outcome = attempt.error or f"status {attempt.status}"
        detail = f"{delivery.tries} attempts failed, the last with {outcome}; see the delivery {delivery.id}."
        _close(db, claim, delivery, "failed", Problem("not_delivered", detail), now)
        return
    delivery.next_attempt_at = now + int(wait_s * MICROSECONDS)
    if not stored.requeue_delivery(db, claim.step_id, claim.attempt, wait_s):
        raise Stale


def _wait_s(delivery: Delivery, attempt: Attempt, jitter: float, now: int) -> float | None:
    if delivery.type == webhook.PING or (attempt.status is not None and webhook.gone(attempt.status)):
        return None
    wait_s = webhook.delay_s(delivery.tries, jitter)
    asked_s = webhook.retry_after_s(attempt.retry_after, datetime.fromtimestamp(now / MICROSECONDS, UTC))
    return None if wait_s is None else max(wait_s, asked_s or 0.0)


def _blame(db: Session, endpoint: WebhookEndpoint, attempt: Attempt, now: int) -> None:
    """Count a failure against the endpoint: it rests, or it is disabled."""
    endpoint.failures += 1
    since = endpoint.failing_since = now if endpoint.failing_since is None else endpoint.failing_since
    endpoint.rest_until = now + patience.rest_s(endpoint.failures) * MICROSECONDS
    db.flush()
    if attempt.status is not None and webhook.gone(attempt.status):
        endpoints.disable(db, endpoint, "gone")
    elif patience.is_hopeless((now - since) / MICROSECONDS):
        endpoints.disable(db, endpoint, "failing")


def _next_in_turn(db: Session, endpoint: WebhookEndpoint, now: int) -> Sequence[str]:
    """Others may have waited for this attempt to end."""
    db.flush()
    free = 0 if endpoint.rest_until > now else _free(db, endpoint)
    return stored.waiting(db, endpoint.id, free) if free > 0 else ()


def _close(
    db: Session, claim: Claim, delivery: Delivery, state: str, problem: Problem | None, now: int
) -> None:
    ended = "failed" if problem else "done"
    if not queries.close_step(db, claim.step_id, claim.attempt, ended, problem):
        raise Stale
    delivery.state, delivery.finished_at, delivery.next_attempt_at = state, now, None


def _log(db: Session, delivery: Delivery, attempt: Attempt) -> None:
    row = DeliveryAttempt(delivery_id=delivery.id, number=stored.next_number(db, delivery.id))
    row.status, row.error, row.milliseconds = attempt.status, attempt.error, attempt.milliseconds
    row.detail, row.body = attempt.detail, attempt.body
    db.add(row)


def _has_turn(db: Session, endpoint: WebhookEndpoint, delivery: Delivery, *, rests: bool) -> bool:
    """Deliveries wait for their turn at this endpoint; a test does not, but there is only one beside them."""
    if delivery.type == webhook.PING:
        return stored.in_flight(db, endpoint.id) <= patience.IN_FLIGHT
    return not rests and _free(db, endpoint) > 0


def _free(db: Session, endpoint: WebhookEndpoint) -> int:
    """How many more deliveries this endpoint takes at once."""
    return patience.in_flight_limit(proven=is_proven(endpoint)) - stored.in_flight(db, endpoint.id)


def _is_closed(endpoint: WebhookEndpoint, delivery: Delivery) -> bool:
    disabled = endpoint.state != "enabled" and delivery.type != webhook.PING
    return disabled or endpoint.deleted_at is not None


def _secrets(endpoint: WebhookEndpoint, now: int) -> tuple[bytes, ...]:
    """The secrets that sign now, newest first, sealed."""
    if endpoint.previous_secret is None or (endpoint.previous_until or 0) <= now:
        return (endpoint.secret,)
    return (endpoint.secret, endpoint.previous_secret)
