"""Endpoints of webhooks and what is delivered to them.

Locks are taken in the order endpoint, deliveries, steps.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Row, Select, func, select, update
from sqlalchemy.orm import Session, selectinload

from app.db.base import first_id, now_us
from app.db.models import Event, Step
from app.db.queries.statements import changed
from app.db.queries.steps import is_unheard
from app.db.webhooks import Delivery, DeliveryAttempt, WebhookEndpoint
from app.domain.errors import NotFound


def endpoints(project_id: str, state: str | None = None) -> Select[WebhookEndpoint]:
    """A project's endpoints, of one state if asked."""
    chosen = select(WebhookEndpoint).where(WebhookEndpoint.project_id == project_id, _kept())
    return chosen.where(WebhookEndpoint.state == state) if state else chosen


def count_endpoints(db: Session, project_id: str) -> int:
    """How many endpoints a project has."""
    return db.scalars(select(func.count()).select_from(endpoints(project_id).subquery())).one()


def listeners(db: Session, project_id: str, kind: str) -> list[WebhookEndpoint]:
    """The enabled endpoints of a project that want to be told of this."""
    found = db.scalars(endpoints(project_id, "enabled").order_by(WebhookEndpoint.id))
    return [endpoint for endpoint in found if kind in endpoint.events]


def lock_endpoint(db: Session, project_id: str, endpoint_id: str) -> WebhookEndpoint:
    """An endpoint of this project, locked until the transaction ends; deliveries can still be inserted.

    Raises:
        NotFound: There is none, or it was deleted.
    """
    row = db.scalars(_locked(endpoints(project_id).where(WebhookEndpoint.id == endpoint_id))).one_or_none()
    if row is None:
        raise NotFound(f"This project has no webhook endpoint with the id {endpoint_id!r}.")
    return row


def lock_endpoint_of(db: Session, delivery_id: str) -> WebhookEndpoint:
    """The endpoint of a delivery, deleted or not, locked until the transaction ends."""
    mine = select(Delivery.endpoint_id).where(Delivery.id == delivery_id).scalar_subquery()
    return db.scalars(_locked(select(WebhookEndpoint).where(WebhookEndpoint.id == mine))).one()


def fresh_delivery(db: Session, delivery_id: str) -> Delivery:
    """A delivery as it is now, under its endpoint's lock."""
    return db.get_one(Delivery, delivery_id, populate_existing=True)


def due_at(db: Session, step_id: str) -> Row[WebhookEndpoint, Delivery, bool] | None:
    """Where a delivery goes that is queued and due, the delivery, and whether the endpoint rests; or None."""
    rests = WebhookEndpoint.rest_until > now_us()
    found = (
        select(WebhookEndpoint, Delivery, rests)
        .join(Delivery, Delivery.endpoint_id == WebhookEndpoint.id)
        .join(Step, Step.subject_id == Delivery.id)
        .where(Step.id == step_id, *_due())
    )
    return db.execute(found).one_or_none()


def deliveries(
    project_id: str, endpoint: str | None, state: str | None, kind: str | None, since_us: int | None
) -> Select[Delivery]:
    """A project's deliveries with their attempts, as far as asked."""
    chosen = select(Delivery).where(Delivery.project_id == project_id)
    chosen = chosen.where(Delivery.endpoint_id == endpoint) if endpoint else chosen
    chosen = chosen.where(Delivery.state == state) if state else chosen
    chosen = chosen.where(Delivery.type == kind) if kind else chosen
    chosen = chosen.where(Delivery.id >= first_id("dlv", since_us)) if since_us is not None else chosen
    return chosen.options(selectinload(Delivery.attempts))


def to_replay(
    db: Session, endpoint_id: str, state: str, since_us: int, until_us: int, limit: int
) -> Sequence[Delivery]:
    """An endpoint's deliveries of this state that were made in this time, oldest first; tests are none."""
    made = (Delivery.id >= first_id("dlv", since_us), Delivery.id < first_id("dlv", until_us))
    mine = select(Delivery).where(Delivery.endpoint_id == endpoint_id, Delivery.event_id.is_not(None), *made)
    return db.scalars(mine.where(Delivery.state == state).order_by(Delivery.id).limit(limit)).all()


def missed_events(
    db: Session, endpoint: WebhookEndpoint, since_us: int, until_us: int, limit: int
) -> Sequence[Event]:
    """What happened in this time and this endpoint has no delivery of, oldest first."""
    told = select(Delivery.event_id).where(Delivery.endpoint_id == endpoint.id, Delivery.event_id == Event.id)
    happened = (Event.id >= first_id("evt", since_us), Event.id < first_id("evt", until_us))
    mine = select(Event).where(Event.project_id == endpoint.project_id, *happened, ~told.exists())
    return db.scalars(mine.where(Event.type.in_(endpoint.events)).order_by(Event.id).limit(limit)).all()


def in_flight(db: Session, endpoint_id: str) -> int:
    """How many deliveries to an endpoint run now, on all workers."""
    running = select(func.count()).select_from(Step).join(Delivery, Delivery.id == Step.subject_id)
    return db.scalars(
        running.where(Step.kind == "deliver", Step.state == "running", Delivery.endpoint_id == endpoint_id)
    ).one()


def next_number(db: Session, delivery_id: str) -> int:
    """The number of a delivery's next attempt."""
    last = select(func.coalesce(func.max(DeliveryAttempt.number), 0))
    return db.scalars(last.where(DeliveryAttempt.delivery_id == delivery_id)).one() + 1


def waiting(db: Session, endpoint_id: str, limit: int) -> Sequence[str]:
    """The steps of an endpoint's deliveries that are due, in the order in which they became so."""
    due = select(Step.id).join(Delivery, Delivery.id == Step.subject_id).where(*_due())
    mine = due.where(Delivery.endpoint_id == endpoint_id, Delivery.state == "pending")
    return db.scalars(mine.order_by(Step.not_before, Step.id).limit(limit)).all()


def unheard(db: Session, each: int, limit: int) -> Sequence[Step]:
    """Steps of deliveries to ring again, at most `each` of one endpoint: unheard, or due since."""
    place = func.row_number().over(partition_by=Delivery.endpoint_id, order_by=(Step.not_before, Step.id))
    rests = WebhookEndpoint.rest_until
    news = (Step.not_before > Step.rung_at) | (rests > Step.rung_at) | is_unheard()
    due = (
        select(Step.id, place.label("place"))
        .join(Delivery, Delivery.id == Step.subject_id)
        .join(WebhookEndpoint, WebhookEndpoint.id == Delivery.endpoint_id)
        .where(*_due(), rests <= now_us(), news)
        .subquery()
    )
    found = select(Step).join(due, due.c.id == Step.id).where(due.c.place <= each)
    return db.scalars(found.order_by(Step.rung_at).limit(limit)).all()


def requeue_delivery(db: Session, step_id: str, attempt: int, wait_s: float) -> bool:
    """Hand a delivery that is still ours back until its next attempt: what was lost before is forgotten."""
    mine = update(Step).where(Step.id == step_id, Step.attempt == attempt, Step.state == "running")
    ahead = now_us() + int(wait_s * 1_000_000)
    values = {"state": "queued", "losses": 0, "worker": None, "lease_until": None, "not_before": ahead}
    return changed(db, mine.values(values | {"rung_at": now_us()})) == 1


def was_canceled(db: Session, step_id: str, attempt: int) -> bool:
    """Whether a delivery was canceled during this attempt."""
    mine = (Step.id == step_id, Step.attempt == attempt, Step.state == "canceled")
    return db.scalars(select(Step.id).where(*mine)).one_or_none() is not None


def hasten(db: Session, delivery_id: str) -> str | None:
    """Make a delivery that waits for its next attempt due now, and name its step; None when none waits."""
    mine = (Step.kind == "deliver", Step.subject_id == delivery_id, Step.state == "queued")
    hastened = update(Step).where(*mine).values(not_before=0, rung_at=now_us()).returning(Step.id)
    return db.execute(hastened, execution_options={"synchronize_session": False}).scalar_one_or_none()


def cancel_pending(db: Session, endpoint_id: str) -> int:
    """End what waits to be delivered to an endpoint; who is delivering learns it when it writes."""
    mine = (Delivery.endpoint_id == endpoint_id, Delivery.state == "pending")
    of_them = (Step.kind == "deliver", Step.subject_id.in_(select(Delivery.id).where(*mine)))
    steps = update(Step).where(*of_them, Step.state.in_(("queued", "running")))
    changed(db, steps.values(state="canceled", finished_at=now_us(), lease_until=None))
    ended = {"state": "canceled", "finished_at": now_us(), "next_attempt_at": None}
    return changed(db, update(Delivery).where(*mine).values(ended))


def _kept() -> ColumnElement[bool]:
    return WebhookEndpoint.deleted_at.is_(None)


def _due() -> tuple[ColumnElement[bool], ...]:
    return Step.kind == "deliver", Step.state == "queued", Step.not_before <= now_us()


def _locked(statement: Select[WebhookEndpoint]) -> Select[WebhookEndpoint]:
    return statement.with_for_update(key_share=True).execution_options(populate_existing=True)
