"""Endpoints of webhooks: made, changed, disabled, tested, and told again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from app.db import queries
from app.db.base import MICROSECONDS
from app.db.models import Event
from app.db.queries import projects
from app.db.queries import webhooks as stored
from app.db.webhooks import Delivery, WebhookEndpoint
from app.domain.errors import Conflict, InvalidInput, TooManyEndpoints
from app.domain.pruning import DAY_US
from app.domain.webhook import new_secret
from app.secrets import Sealer
from app.services import deliveries, events

MOST_ENDPOINTS = 20
MOST_REPLAYED = 1000


@dataclass(frozen=True)
class Issued:
    """An endpoint, and its new signing secret, which is kept sealed and not shown again."""

    endpoint: WebhookEndpoint
    secret: str


def create(
    db: Session, sealer: Sealer, project_id: str, url: str, kinds: Sequence[str], description: str
) -> Issued:
    """Make an endpoint that is told of these types of events.

    Raises:
        TooManyEndpoints: The project has as many as it may have.
    """
    projects.lock_project(db, project_id)
    if stored.count_endpoints(db, project_id) >= MOST_ENDPOINTS:
        detail = f"A project may have {MOST_ENDPOINTS} webhook endpoints and this one has; delete one first."
        raise TooManyEndpoints(detail)
    secret = new_secret()
    endpoint = WebhookEndpoint(project_id=project_id, url=url, description=description)
    endpoint.events, endpoint.secret = list(kinds), sealer.seal(secret)
    db.add(endpoint)
    db.flush()
    events.record(db, project_id, endpoint.id, "webhook_endpoint.created", url=url, events=endpoint.events)
    return Issued(endpoint, secret)


def change(db: Session, project_id: str, endpoint_id: str, changes: dict[str, object]) -> WebhookEndpoint:
    """Set an endpoint's `url`, `events`, `description` or `state`.

    Enabled again or moved, it begins anew: what it failed before is forgotten.
    """
    endpoint = stored.lock_endpoint(db, project_id, endpoint_id)
    for column, value in changes.items():
        if column != "state":
            setattr(endpoint, column, value)
    if "url" in changes or changes.get("state") == "enabled":
        _forgive(endpoint)
    if changes.get("state") == "enabled":
        endpoint.state, endpoint.disabled_reason, endpoint.disabled_at = "enabled", None, None
    db.flush()
    events.record(db, project_id, endpoint.id, "webhook_endpoint.changed", changed=sorted(changes))
    if changes.get("state") == "disabled":
        disable(db, endpoint, "requested")
    return endpoint


def disable(db: Session, endpoint: WebhookEndpoint, reason: str) -> None:
    """Tell an endpoint nothing more, for this reason: requested, gone or failing. It is locked."""
    if endpoint.state == "disabled":
        return
    endpoint.state, endpoint.disabled_reason, endpoint.disabled_at = "disabled", reason, queries.now(db)
    db.flush()
    count = stored.cancel_pending(db, endpoint.id)
    kind = "webhook_endpoint.disabled"
    events.record(db, endpoint.project_id, endpoint.id, kind, reason=reason, canceled=count)


def delete(db: Session, project_id: str, endpoint_id: str) -> None:
    """Remove an endpoint and its secrets; what was delivered to it stays to be read."""
    endpoint = stored.lock_endpoint(db, project_id, endpoint_id)
    endpoint.deleted_at = queries.now(db)
    endpoint.secret, endpoint.previous_secret, endpoint.previous_until = b"", None, None
    db.flush()
    count = stored.cancel_pending(db, endpoint.id)
    events.record(db, project_id, endpoint.id, "webhook_endpoint.deleted", canceled=count)


def rotate(db: Session, sealer: Sealer, project_id: str, endpoint_id: str, overlap_s: int) -> Issued:
    """A new signing secret; the one before signs beside it for `overlap_s`, and one before that no more."""
    endpoint, secret = stored.lock_endpoint(db, project_id, endpoint_id), new_secret()
    endpoint.previous_secret = endpoint.secret if overlap_s else None
    endpoint.previous_until = queries.now(db) + overlap_s * MICROSECONDS if overlap_s else None
    endpoint.secret = sealer.seal(secret)
    db.flush()
    events.record(db, project_id, endpoint.id, "webhook_endpoint.secret_rotated", overlap_s=overlap_s)
    return Issued(endpoint, secret)


def test(db: Session, project_id: str, endpoint_id: str) -> Delivery:
    """Send a ping, also to an endpoint that is disabled: it is tried once."""
    endpoint = stored.lock_endpoint(db, project_id, endpoint_id)
    return deliveries.ping(db, endpoint, queries.now(db))


def redeliver(db: Session, project_id: str, delivery_id: str) -> Delivery:
    """Deliver once more, with all attempts; what waits for its next attempt gets it now.

    Raises:
        Conflict: The endpoint is disabled.
    """
    delivery = queries.get_owned(db, Delivery, project_id, delivery_id)
    endpoint = _awake(db, project_id, delivery.endpoint_id)
    delivery = stored.fresh_delivery(db, delivery_id)
    deliveries.again(db, delivery, queries.now(db))
    db.flush()
    events.record(db, project_id, endpoint.id, "webhook_endpoint.redelivered", delivery=delivery.id)
    return delivery


def replay(
    db: Session,
    project_id: str,
    endpoint_id: str,
    state: str,
    since_us: int,
    until_us: int | None,
    kept_days: int,
) -> Event:
    """Deliver again what has this state and was made in this time; `missed` is what was never delivered.

    The event of the replay tells the `count`.

    Raises:
        Conflict: The endpoint is disabled.
        InvalidInput: There are more than 1,000; or nobody knows any more what was delivered since then.
    """
    endpoint, now = _awake(db, project_id, endpoint_id), queries.now(db)
    until_us, most = now if until_us is None else until_us, MOST_REPLAYED + 1
    if state == "missed":
        _check_known(since_us, now, kept_days)
        missed = stored.missed_events(db, endpoint, since_us, until_us, most)
        _check_count(len(missed))
        for event in missed:
            deliveries.tell(db, endpoint, event)
        count = len(missed)
    else:
        found = stored.to_replay(db, endpoint.id, state, since_us, until_us, most)
        _check_count(len(found))
        for delivery in found:
            deliveries.again(db, delivery, now)
        count = len(found)
    db.flush()
    kind = "webhook_endpoint.replayed"
    return events.record(db, project_id, endpoint.id, kind, state=state, count=count)


def _awake(db: Session, project_id: str, endpoint_id: str) -> WebhookEndpoint:
    """The endpoint, locked, enabled, and not left to rest: somebody knows that it works now."""
    endpoint = stored.lock_endpoint(db, project_id, endpoint_id)
    if endpoint.state != "enabled":
        here = f"PATCH /v1/webhook-endpoints/{endpoint_id}"
        raise Conflict(f'The endpoint {endpoint_id} is disabled; {here} with {{"state": "enabled"}} first.')
    endpoint.rest_until = 0
    return endpoint


def _check_count(count: int) -> None:
    if count > MOST_REPLAYED:
        detail = f"more than {MOST_REPLAYED} deliveries are in this time, the limit of one replay; shorten it"
        raise InvalidInput.at("/since", detail)


def _check_known(since_us: int, now: int, days: int) -> None:
    """Of what was delivered before that, no delivery is left: it would all look missed."""
    oldest = now - days * DAY_US
    if since_us < oldest:
        day = datetime.fromtimestamp(oldest / MICROSECONDS, UTC).isoformat(timespec="seconds")
        detail = f"deliveries are kept for {days} days, so what was missed is known from {day} on; begin then"
        raise InvalidInput.at("/since", detail)


def _forgive(endpoint: WebhookEndpoint) -> None:
    endpoint.failures, endpoint.failing_since, endpoint.rest_until = 0, None, 0
