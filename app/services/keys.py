"""API keys: made once, shown once, kept as a hash."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

from sqlalchemy.orm import Session

from app.db import queries
from app.db.base import MICROSECONDS, new_id
from app.db.keys import ApiKey
from app.db.models import Project
from app.db.queries import keys as stored
from app.db.queries.keys import Credential
from app.domain.errors import Conflict, FieldError, Forbidden, InvalidInput, Unauthenticated
from app.domain.states import Scope
from app.services import events

PREFIX = "fb_"
SCOPES = get_args(Scope)
LAST_SHOWN = int(datetime.max.replace(tzinfo=UTC).timestamp()) * MICROSECONDS
FIRST_SCOPES = ("read", "write", "admin")


@dataclass(frozen=True)
class Caller:
    """Who is asking: a key, its project and what it may do."""

    key_id: str
    project_id: str
    scopes: frozenset[str]


@dataclass(frozen=True)
class Issued:
    """A key that was just made, and its text, which is not kept."""

    key: ApiKey
    text: str


def create(
    db: Session, project: Project, name: str, scopes: Iterable[str], expires_at: int | None = None
) -> Issued:
    """Make a key and return its text, this once: `fb_<id>_<32 random bytes>`."""
    key_id, secret = new_id("key"), secrets.token_urlsafe(32)
    text = f"{PREFIX}{key_id.removeprefix('key_')}_{secret}"
    key = ApiKey(id=key_id, project=project, name=name, digest=digest(text), scopes=sorted(set(scopes)))
    key.expires_at = expires_at
    db.add(key)
    db.flush()
    events.record(db, project.id, key.id, "key.created", name=name, scopes=key.scopes)
    return Issued(key, text)


def grant(
    db: Session, caller: Caller, name: str, scopes: Iterable[str], expires_at: datetime | None
) -> Issued:
    """Make a key of the caller's project.

    Raises:
        Forbidden: The caller lacks one of these scopes.
        InvalidInput: That time has passed, or no answer could show it.
    """
    _check_grant(caller, scopes)
    project = db.get_one(Project, caller.project_id)
    return create(db, project, name, scopes, _moment_ahead(db, expires_at))


def authenticate(db: Session, text: str) -> Caller:
    """The caller that this key belongs to. Why a key is refused is told only to who has its secret.

    Raises:
        Unauthenticated: It is unknown, revoked or expired, or its project is closed.
    """
    identifier, _, secret = text.removeprefix(PREFIX).partition("_")
    if not text.startswith(PREFIX) or not secret:
        raise Unauthenticated
    found = stored.credential(db, f"key_{identifier}")
    if found is None or not hmac.compare_digest(found.digest, digest(text)):
        raise Unauthenticated
    return caller_of(found)


def caller_of(found: Credential) -> Caller:
    """The caller that a key stands for.

    Raises:
        Unauthenticated: The key is revoked or expired, or its project is closed.
    """
    key_id = found.key_id
    if found.revoked_at is not None:
        raise Unauthenticated(f"The key {key_id} was revoked at {_shown(found.revoked_at)}; use another one.")
    if found.expires_at is not None and found.expires_at <= found.now:
        raise Unauthenticated(f"The key {key_id} expired at {_shown(found.expires_at)}; make a new one.")
    if found.closed_at is not None:
        raise Unauthenticated(f"The project {found.project_id} is closed; an operator can open it again.")
    return Caller(key_id, found.project_id, frozenset(found.scopes))


def change(db: Session, caller: Caller, key_id: str, changes: dict[str, Any]) -> ApiKey:
    """Set a key's `name`, `scopes` or `expires_at` (a datetime, or None for never).

    Raises:
        Conflict: It is revoked, or the key that asks: it could lock itself out.
        Forbidden: The caller lacks one of the scopes, or the key is an operator's.
        InvalidInput: The time has passed, or no answer could show it.
    """
    _check_grant(caller, changes.get("scopes", ()))
    moments = {"expires_at": _moment_ahead(db, changes["expires_at"])} if "expires_at" in changes else {}
    key = queries.lock_owned(db, ApiKey, caller.project_id, key_id)
    if key.revoked_at is not None:
        raise Conflict(f"The key {key.id} is revoked for good; make a new one with POST /v1/api-keys.")
    if changes.keys() - {"name"}:
        _check_another(caller, key)
    for column, value in {**changes, **moments}.items():
        setattr(key, column, value)
    db.flush()
    events.record(db, key.project_id, key.id, "key.changed", name=key.name, scopes=key.scopes)
    return key


def revoke(db: Session, caller: Caller, key_id: str) -> None:
    """End a key, and the sessions it opened.

    Raises:
        Conflict: It is the key that asks: it could lock itself out.
        Forbidden: It is an operator's, and the caller is none.
    """
    key = queries.lock_owned(db, ApiKey, caller.project_id, key_id)
    _check_another(caller, key)
    if key.revoked_at is None:
        key.revoked_at = queries.now(db)
        stored.close_browser_sessions(db, key.id)
        events.record(db, key.project_id, key.id, "key.revoked")


def rotate(db: Session, caller: Caller, key_id: str, overlap_s: int) -> Issued:
    """A new key with the same name, scopes and expiry; the old one goes on for a while, then it expires.

    Raises:
        Conflict: The key has ended.
        Forbidden: The caller lacks one of the key's scopes.
    """
    key = queries.lock_owned(db, ApiKey, caller.project_id, key_id)
    _check_grant(caller, key.scopes)
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= queries.now(db)):
        raise Conflict(f"The key {key.id} has ended; make a new one with POST /v1/api-keys.")
    issued = create(db, key.project, key.name, key.scopes, key.expires_at)
    end = queries.now(db) + overlap_s * MICROSECONDS
    key.expires_at = end if key.expires_at is None else min(end, key.expires_at)
    events.record(db, key.project_id, key.id, "key.rotated", successor=issued.key.id)
    return issued


def digest(text: str) -> bytes:
    """What is kept of a secret."""
    # The secret has 256 random bits: a plain hash cannot be searched, a slow one would only cost time.
    return hashlib.sha256(text.encode()).digest()


def _check_grant(caller: Caller, scopes: Iterable[str]) -> None:
    """Nobody gives away what they do not have.

    Raises:
        Forbidden: The caller lacks one of these scopes.
    """
    lacking = sorted(set(scopes) - caller.scopes)
    if lacking:
        has = ", ".join(sorted(caller.scopes))
        raise Forbidden(f"Your key has the scopes {has}; it cannot grant {', '.join(lacking)}.")


def _moment_ahead(db: Session, expires_at: datetime | None) -> int | None:
    """When a key is to expire, in microseconds.

    Raises:
        InvalidInput: That time has passed, or is after the year 9999, which no answer could show.
    """
    if expires_at is None:
        return None
    moment = int(expires_at.timestamp() * MICROSECONDS)
    if moment > LAST_SHOWN:
        detail = "it is after the year 9999 in UTC; name an earlier time, or null for never"
        raise InvalidInput(f"/expires_at: {detail}", errors=(FieldError("/expires_at", detail),))
    if moment <= queries.now(db):
        detail = f"{_shown(moment)} has passed; name a time to come, or revoke the key with DELETE"
        raise InvalidInput(f"/expires_at: {detail}", errors=(FieldError("/expires_at", detail),))
    return moment


def _check_another(caller: Caller, key: ApiKey) -> None:
    """Whether this caller may end or restrict this key.

    Raises:
        Conflict: It is the key that asks: it could lock itself out.
        Forbidden: It is an operator's, and the caller is none.
    """
    if key.id == caller.key_id:
        raise Conflict("A key does not end or restrict itself; make a second one, deploy it, and use that.")
    if "operator" in key.scopes and "operator" not in caller.scopes:
        raise Forbidden(f"{key.id} is an operator's key; only an operator's key can change or end it.")


def _shown(moment: int) -> str:
    return datetime.fromtimestamp(moment / MICROSECONDS, UTC).isoformat(timespec="seconds")
