"""The tables of webhooks: endpoints, deliveries, and every attempt to deliver."""

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db.base import Base, Id, Json, new_id, now_us

URL_LENGTH = 2000


class WebhookEndpoint(Base):
    """Where a project wants to be told, of what, and how that has gone. Its secrets are sealed.

    `failures` counts attempts that failed since the last one that succeeded, and `failing_since` says when
    the first of them was. Until `rest_until` nobody tries.
    """

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index("ix_webhook_endpoints_project_id_id", "project_id", "id"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=lambda: new_id("whe"))
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    url: Mapped[str] = mapped_column(String(URL_LENGTH))
    description: Mapped[str] = mapped_column(String(500), default="")
    events: Mapped[list[str]] = mapped_column(Json)
    state: Mapped[str] = mapped_column(String(20), default="enabled")
    disabled_reason: Mapped[str | None] = mapped_column(String(20))
    disabled_at: Mapped[int | None] = mapped_column(BigInteger)
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    previous_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    previous_until: Mapped[int | None] = mapped_column(BigInteger)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    failing_since: Mapped[int | None] = mapped_column(BigInteger)
    rest_until: Mapped[int] = mapped_column(BigInteger, default=0)
    delivered_at: Mapped[int | None] = mapped_column(BigInteger)
    deleted_at: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_us())


class Delivery(Base):
    """One message to one endpoint, inserted with the event that it tells of; a ping tells of none.

    `round` counts how often it was asked for again, `tries` the attempts of this round.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("endpoint_id", "event_id"),
        Index("ix_deliveries_project_id_id", "project_id", "id"),
        Index("ix_deliveries_project_id_state_id", "project_id", "state", "id"),
        Index("ix_deliveries_project_id_type_id", "project_id", "type", "id"),
        Index("ix_deliveries_endpoint_id_state_id", "endpoint_id", "state", "id"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=lambda: new_id("dlv"))
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    endpoint_id: Mapped[str] = mapped_column(Id, ForeignKey("webhook_endpoints.id"))
    event_id: Mapped[str | None] = mapped_column(Id, ForeignKey("events.id"), index=True)
    message_id: Mapped[str] = mapped_column(Id, default=lambda: new_id("msg"))
    type: Mapped[str] = mapped_column(String(50))
    payload: Mapped[dict[str, Any]] = mapped_column(Json)
    state: Mapped[str] = mapped_column(String(20), default="pending")
    round: Mapped[int] = mapped_column(Integer, default=0)
    tries: Mapped[int] = mapped_column(Integer, default=0)
    next_attempt_at: Mapped[int | None] = mapped_column(BigInteger, default=now_us())
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_us())
    attempts: Mapped[list["DeliveryAttempt"]] = relationship(order_by="DeliveryAttempt.number", viewonly=True)


class DeliveryAttempt(Base):
    """One request to an endpoint: its status or what went wrong, and the start of the answer, escaped."""

    __tablename__ = "delivery_attempts"
    delivery_id: Mapped[str] = mapped_column(Id, ForeignKey("deliveries.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    status: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None] = mapped_column(String(40))
    detail: Mapped[str | None] = mapped_column(Text)
    milliseconds: Mapped[int] = mapped_column(Integer)
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_us())
