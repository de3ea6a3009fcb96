"""Webhooks by the Standard Webhooks specification: what is signed, when to try again, what an answer means.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Literal, get_args

EventType = Literal[
    "job.succeeded",
    "job.failed",
    "job.canceled",
    "job.expired",
    "gate.failed",
    "version.rejected",
    "dataset.rejected",
]
EVENT_TYPES: tuple[str, ...] = get_args(EventType)
PING = "ping"  # sent by an endpoint's test alone; nobody subscribes to it

SECRET_PREFIX = "whsec_"  # noqa: S105 - what a secret starts with
SECRET_BYTES = 32
MINUTE, HOUR = 60, 3600
DELAYS_S = (5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
SPREAD = 0.2
LONGEST_RETRY_AFTER_S = 24 * HOUR


def new_secret() -> str:
    """A signing secret of 32 random bytes, as `whsec_` and base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The symmetric signature (v1): HMAC-SHA256 over `id.timestamp.body`; the timestamp is in seconds."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def signatures(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header: one signature per secret, so that both sign during a rotation."""
    return " ".join(sign(secret, message_id, timestamp, body) for secret in secrets)


def delay_s(attempt: int, jitter: float) -> float | None:
    """Seconds from failed attempt number `attempt` (the first is 1) to the next; None after the last.

    `jitter` in [0, 1) spreads the delay by ±20 %, so that what failed together does not come back together.
    """
    if attempt > len(DELAYS_S):
        return None
    return DELAYS_S[attempt - 1] * (1 - SPREAD + 2 * SPREAD * jitter)


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds that `Retry-After` asks for (a number or an HTTP date), at most a day; None for nonsense."""
    asked = _asked_s(header.strip(), now) if header else None
    return None if asked is None else min(max(asked, 0.0), LONGEST_RETRY_AFTER_S)


def succeeded(status: int) -> bool:
    """Whether the receiver took the message: 2xx alone says so."""
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


def gone(status: int) -> bool:
    """Whether the receiver wants no more messages: 410 disables the endpoint."""
    return status == HTTPStatus.GONE


def _asked_s(header: str, now: datetime) -> float | None:
    if header.isascii() and header.isdecimal():
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except (ValueError, OverflowError):  # the second for a year or a zone of twenty digits
        return None
    return (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
