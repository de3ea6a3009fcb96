"""What lets a browser read: a cookie that stands for a key, for GETs only."""

import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db import queries
from app.db.base import MICROSECONDS
from app.db.keys import BrowserSession
from app.db.queries import keys as stored
from app.domain.errors import Unauthenticated
from app.services import keys
from app.services.keys import Caller

LIFE_S = 12 * 3600


@dataclass(frozen=True)
class Opened:
    """A session that was just opened, and the cookie's text, which is not kept."""

    session: BrowserSession
    text: str


def open_for(db: Session, caller: Caller) -> Opened:
    """A session of the caller's key."""
    secret = secrets.token_urlsafe(32)
    row = BrowserSession(key_id=caller.key_id, digest=keys.digest(secret))
    row.expires_at = queries.now(db) + LIFE_S * MICROSECONDS
    db.add(row)
    db.flush()
    return Opened(row, f"{row.id}.{secret}")


def authenticate(db: Session, text: str) -> Caller:
    """The caller whose key opened this session; it ends with its key.

    Raises:
        Unauthenticated: It is unknown, over, or its key is.
    """
    session_id, _, secret = text.partition(".")
    row = db.get(BrowserSession, session_id) if session_id.isprintable() else None  # cookies can escape a NUL
    if row is None or not hmac.compare_digest(row.digest, keys.digest(secret)):
        raise Unauthenticated("The session cookie is wrong; send your key to POST /v1/session again.")
    if row.expires_at <= queries.now(db):
        raise Unauthenticated("The session is over; send your key to POST /v1/session again.")
    found = stored.credential(db, row.key_id)
    assert found is not None  # noqa: S101 - a session goes with its key
    return keys.caller_of(found)
