"""Webhooks: where to tell of what happens, and how that went."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from app.api.deps import App, Paged, ReadDb, Service, Who, WriteDb
from app.api.idempotency import Once, OncePerKey
from app.api.refusals import refuses
from app.api.schemas.values import AnyId, Page, Time, microseconds
from app.api.schemas.webhooks import (
    DeliveryRead,
    EndpointChange,
    EndpointCreate,
    EndpointIssued,
    EndpointRead,
    Replay,
    Replayed,
    SecretRotation,
)
from app.db import queries
from app.db.models import Event
from app.db.queries import webhooks as stored
from app.db.webhooks import Delivery, WebhookEndpoint
from app.domain.destination import check_url
from app.domain.webhook import EventType
from app.secrets import Sealer
from app.services import endpoints
from app.services.endpoints import Issued

router = APIRouter(route_class=OncePerKey)
TEST_SECONDS = 25.0
ENDPOINTS, ENDPOINT = "/webhook-endpoints", "/webhook-endpoints/{endpoint_id}"
DELIVERIES, DELIVERY = "/webhook-deliveries", "/webhook-deliveries/{delivery_id}"


@router.post(
    ENDPOINTS, status_code=201, responses=refuses("already_created", "too_many_endpoints", "no_secret_key")
)
async def create_endpoint(
    body: EndpointCreate, response: Response, caller: Who, service: Service, once: Once
) -> EndpointIssued:
    """Make an endpoint. Its signing secret is in this answer and nowhere else.

    Messages are signed by Standard Webhooks, and delivered at least once, in no order.
    """
    check_url(body.url, service.settings.webhook_allow)
    sealer, made = _sealer(service), list[Issued]()

    def make(db: Session) -> str:
        kinds = sorted(set(body.events))
        made.append(endpoints.create(db, sealer, caller.project_id, body.url, kinds, body.description))
        return made[0].endpoint.id

    endpoint_id = await once.write(make, secret=True)
    response.headers["Location"] = f"/v1/webhook-endpoints/{endpoint_id}"
    return EndpointIssued.issued(made[0])


@router.get(ENDPOINTS)
def list_endpoints(
    caller: Who,
    db: ReadDb,
    paging: Paged,
    state: Annotated[Literal["enabled", "disabled"] | None, Query(description="Only in this state")] = None,
) -> Page[EndpointRead]:
    """The project's endpoints, newest first; `notice` tells of one that was disabled."""
    chosen = stored.endpoints(caller.project_id, state)
    rows = queries.newest_first(db, chosen, WebhookEndpoint, paging.cursor, paging.limit)
    return paging.show(rows, EndpointRead.of)


@router.get(ENDPOINT)
def read_endpoint(endpoint_id: str, caller: Who, db: ReadDb) -> EndpointRead:
    """One endpoint: what it is told, and whether that works."""
    return EndpointRead.of(queries.get_owned(db, WebhookEndpoint, caller.project_id, endpoint_id))


@router.patch(ENDPOINT)
def change_endpoint(
    endpoint_id: str, body: EndpointChange, caller: Who, service: Service, db: WriteDb
) -> EndpointRead:
    """Change an endpoint's URL, events or description; disable it, which cancels what waits, or enable it."""
    changes = body.model_dump(exclude_unset=True)
    if "url" in changes:
        check_url(body.url, service.settings.webhook_allow)
    if "events" in changes:
        changes["events"] = sorted(set(body.events))
    return EndpointRead.of(endpoints.change(db, caller.project_id, endpoint_id, changes))


@router.delete(ENDPOINT, status_code=204)
def delete_endpoint(endpoint_id: str, caller: Who, db: WriteDb) -> None:
    """Delete an endpoint with its secrets; what waits is canceled, what was delivered stays in the list."""
    endpoints.delete(db, caller.project_id, endpoint_id)


@router.post(f"{ENDPOINT}/test", status_code=201)
async def test_endpoint(
    endpoint_id: str, response: Response, caller: Who, service: Service, once: Once
) -> DeliveryRead:
    """Send a `ping` now and answer what came of it, after 25 seconds at most.

    A test is tried once. It counts for nothing but good: a success ends a row of failures.
    """
    delivery_id = await once.write(lambda db: endpoints.test(db, caller.project_id, endpoint_id).id)
    await service.watch.settled(delivery_id, TEST_SECONDS)
    response.headers["Location"] = f"/v1/webhook-deliveries/{delivery_id}"
    return await service.read(lambda db: _delivery(db, caller.project_id, delivery_id))


@router.post(f"{ENDPOINT}/rotate-secret", responses=refuses("already_created", "no_secret_key"))
async def rotate_secret(
    endpoint_id: str, caller: Who, service: Service, once: Once, body: SecretRotation | None = None
) -> EndpointIssued:
    """Make a new signing secret; the old one signs beside it for `overlap_s` (a day)."""
    overlap_s, sealer, made = (body or SecretRotation()).overlap_s, _sealer(service), list[Issued]()

    def rotate(db: Session) -> str:
        made.append(endpoints.rotate(db, sealer, caller.project_id, endpoint_id, overlap_s))
        return endpoint_id

    await once.write(rotate, secret=True)
    return EndpointIssued.issued(made[0])


@router.post(f"{ENDPOINT}/replay", status_code=202, responses=refuses("endpoint_disabled"))
async def replay_deliveries(
    endpoint_id: str, body: Replay, response: Response, caller: Who, service: Service, once: Once
) -> Replayed:
    """Deliver again what failed since a time, or what has another state; at most 1,000 at once.

    A message that was delivered before keeps its `webhook-id`. `missed` is what no delivery was made of,
    as far back as deliveries are kept.
    """
    since, until = microseconds(body.since), microseconds(body.until) if body.until else None

    def replay(db: Session) -> str:
        days = service.settings.keep_deliveries_days
        return endpoints.replay(db, caller.project_id, endpoint_id, body.state, since, until, days).id

    event_id = await once.write(replay)
    response.headers["Location"] = f"/v1/webhook-deliveries?endpoint={endpoint_id}"
    return await service.read(lambda db: Replayed.of(db.get_one(Event, event_id)))


@router.get(DELIVERIES)
def list_deliveries(
    caller: Who,
    db: ReadDb,
    paging: Paged,
    endpoint: Annotated[AnyId | None, Query(description="id of an endpoint")] = None,
    state: Annotated[
        Literal["pending", "delivered", "failed", "canceled"] | None, Query(description="Only in this state")
    ] = None,
    kind: Annotated[
        EventType | Literal["ping"] | None, Query(alias="type", description="Only of this type")
    ] = None,
    since: Annotated[Time | None, Query(description="RFC 3339")] = None,
) -> Page[DeliveryRead]:
    """The project's deliveries with every attempt, newest first."""
    since_us = microseconds(since) if since else None
    chosen = stored.deliveries(caller.project_id, endpoint, state, kind, since_us)
    rows = queries.newest_first(db, chosen, Delivery, paging.cursor, paging.limit)
    return paging.show(rows, DeliveryRead.of)


@router.get(DELIVERY)
def read_delivery(delivery_id: str, caller: Who, db: ReadDb) -> DeliveryRead:
    """One delivery: what was sent, and what each attempt got as an answer."""
    return _delivery(db, caller.project_id, delivery_id)


@router.post(f"{DELIVERY}/redeliver", status_code=202, responses=refuses("endpoint_disabled"))
async def redeliver(
    delivery_id: str, response: Response, caller: Who, service: Service, once: Once
) -> DeliveryRead:
    """Deliver once more, under the same `webhook-id` and with all attempts; what waits is tried now."""
    await once.write(lambda db: endpoints.redeliver(db, caller.project_id, delivery_id).id)
    response.headers["Location"] = f"/v1/webhook-deliveries/{delivery_id}"
    return await service.read(lambda db: _delivery(db, caller.project_id, delivery_id))


def _sealer(service: App) -> Sealer:
    return Sealer(service.settings.secret_keys)


def _delivery(db: Session, project_id: str, delivery_id: str) -> DeliveryRead:
    return DeliveryRead.of(queries.get_owned(db, Delivery, project_id, delivery_id))
