"""What endpoints of webhooks and deliveries look like."""

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.values import Time, moment, moment_or_none
from app.db.models import Event
from app.db.webhooks import Delivery, DeliveryAttempt, WebhookEndpoint
from app.domain.destination import LONGEST_URL
from app.domain.webhook import EVENT_TYPES, EventType
from app.services.endpoints import Issued

Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_URL,
        description="https or http, in ASCII, without user, password and fragment",
        examples=["https://ci.example.com/hooks/fewbits"],
    ),
]
Events = Annotated[
    list[EventType],
    Field(
        min_length=1,
        max_length=len(EVENT_TYPES),
        description="which events to be told of",
        examples=[["job.succeeded", "job.failed", "gate.failed"]],
    ),
]
Description = Annotated[str, Field(max_length=500, examples=["the nightly pipeline"])]
EVERYTHING: list[EventType] = list(get_args(EventType))
NOTICES = {
    "requested": "Disabled at {at} by request.",
    "gone": "Disabled at {at}: the receiver answered 410 Gone.",
    "failing": "Disabled at {at}: nothing was delivered {since}, and every attempt failed.",
}
NEXT = (
    ' Set {{"state": "enabled"}} with PATCH to go on; POST …/test tries it before that, '
    "and POST …/replay tells what was missed."
)


class EndpointCreate(BaseModel):
    """An endpoint to be made."""

    model_config = ConfigDict(extra="forbid")
    url: Url
    events: Events = EVERYTHING
    description: Description = ""


class EndpointChange(BaseModel):
    """What is to change; what is not named stays."""

    model_config = ConfigDict(extra="forbid")
    url: Url = ""
    events: Events = []
    description: Description = ""
    state: Annotated[
        Literal["enabled", "disabled"], Field(description="disabling cancels what waits to be delivered")
    ] = "enabled"


class SecretRotation(BaseModel):
    """How long the old secret goes on signing beside the new one."""

    model_config = ConfigDict(extra="forbid")
    overlap_s: Annotated[
        int, Field(ge=0, le=30 * 24 * 3600, description="seconds that both sign; 0 ends the old one now")
    ] = 86400


class Replay(BaseModel):
    """Which deliveries to make again: those of one state, made in this time."""

    model_config = ConfigDict(extra="forbid")
    since: Annotated[Time, Field(examples=["2026-11-21T00:00:00Z"])]
    until: Annotated[Time | None, Field(description="null: now")] = None
    state: Annotated[
        Literal["failed", "canceled", "delivered", "missed"],
        Field(description="`missed`: what happened while there was no endpoint, or a disabled one"),
    ] = "failed"


class Replayed(BaseModel):
    """How many deliveries are made again."""

    count: int

    @classmethod
    def of(cls, row: Event) -> "Replayed":
        """The event of the replay as shown."""
        return cls(count=int(str(row.data["count"])))


class EndpointRead(BaseModel):
    """An endpoint; its secret is shown only when it is made or rotated."""

    id: str
    url: str
    events: list[str]
    description: str
    state: str
    notice: Annotated[str | None, Field(description="why it is disabled, and what to do")]
    disabled_reason: Annotated[str | None, Field(description="requested, gone or failing")]
    disabled_at: datetime | None
    failing_since: Annotated[datetime | None, Field(description="since when every attempt has failed")]
    delivered_at: Annotated[datetime | None, Field(description="when an attempt last succeeded")]
    previous_secret_until: Annotated[
        datetime | None, Field(description="until when the secret before this one signs too")
    ]
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def fields(cls, row: WebhookEndpoint) -> dict[str, Any]:
        """A row's fields as shown."""
        here = f"/v1/webhook-endpoints/{row.id}"
        return {
            "id": row.id,
            "url": row.url,
            "events": row.events,
            "description": row.description,
            "state": row.state,
            "notice": _notice(row),
            "disabled_reason": row.disabled_reason,
            "disabled_at": moment_or_none(row.disabled_at),
            "failing_since": moment_or_none(row.failing_since),
            "delivered_at": moment_or_none(row.delivered_at),
            "previous_secret_until": moment_or_none(row.previous_until),
            "created_at": moment(row.created_at),
            "links": {"self": here, "deliveries": f"/v1/webhook-deliveries?endpoint={row.id}"},
        }

    @classmethod
    def of(cls, row: WebhookEndpoint) -> "EndpointRead":
        """A row as shown."""
        return cls(**cls.fields(row))


class EndpointIssued(EndpointRead):
    """An endpoint with a new signing secret, shown this once."""

    secret: Annotated[str, Field(examples=["whsec_…"])]

    @classmethod
    def issued(cls, issued: Issued) -> "EndpointIssued":
        """An endpoint and its secret."""
        return cls(**cls.fields(issued.endpoint), secret=issued.secret)


class AttemptRead(BaseModel):
    """One attempt: the status of the answer, or why there was none."""

    number: int
    status: int | None
    error: Annotated[
        str | None, Field(description="such as `timed_out`, `refused_address`, `tls_failed`, `redirect`")
    ]
    detail: Annotated[str | None, Field(description="the error in words")]
    milliseconds: int
    body: Annotated[str, Field(description="the first kilobyte of the answer, escaped")]
    at: datetime

    @classmethod
    def of(cls, row: DeliveryAttempt) -> "AttemptRead":
        """A row as shown."""
        return cls(
            number=row.number,
            status=row.status,
            error=row.error,
            detail=row.detail,
            milliseconds=row.milliseconds,
            body=row.body,
            at=moment(row.created_at),
        )


class DeliveryRead(BaseModel):
    """A message to one endpoint, and every attempt to deliver it."""

    id: str
    endpoint: str
    event: Annotated[str | None, Field(description="id of the event; null for a test")]
    type: Annotated[str, Field(examples=["job.succeeded"])]
    message: Annotated[str, Field(description="the `webhook-id`, the same in every attempt")]
    state: Annotated[str, Field(description="pending, delivered, failed or canceled")]
    payload: dict[str, Any]
    attempts: list[AttemptRead]
    next_attempt_at: Annotated[
        datetime | None, Field(description="not before this time; later where the endpoint keeps failing")
    ]
    created_at: datetime
    finished_at: datetime | None
    links: dict[str, str]

    @classmethod
    def of(cls, row: Delivery) -> "DeliveryRead":
        """A row as shown."""
        return cls(
            id=row.id,
            endpoint=row.endpoint_id,
            event=row.event_id,
            type=row.type,
            message=row.message_id,
            state=row.state,
            payload=row.payload,
            attempts=[AttemptRead.of(attempt) for attempt in row.attempts],
            next_attempt_at=moment_or_none(row.next_attempt_at),
            created_at=moment(row.created_at),
            finished_at=moment_or_none(row.finished_at),
            links={
                "self": f"/v1/webhook-deliveries/{row.id}",
                "endpoint": f"/v1/webhook-endpoints/{row.endpoint_id}",
            },
        )


def _notice(row: WebhookEndpoint) -> str | None:
    if row.disabled_reason is None:
        return None
    # A test that succeeded, or a new URL, ends the row of failures; why it was disabled stays.
    since = f"since {_shown(row.failing_since)}" if row.failing_since else "for five days"
    at = _shown(row.disabled_at)
    return (NOTICES[row.disabled_reason] + NEXT).format(at=at, since=since)


def _shown(microseconds: int | None) -> str:
    return "" if microseconds is None else moment(microseconds).isoformat(timespec="seconds")
