"""API keys: made once, shown once, kept as a hash."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db import queries
from app.db.base import new_id
from app.db.models import ApiKey, Project

PREFIX = "fb_"
SCOPES = ("read", "write", "admin", "operator")


@dataclass(frozen=True)
class Caller:
    """Who is asking: a key, its project and what it may do."""

    key_id: str
    project_id: str
    scopes: frozenset[str]


def create(db: Session, project: Project, name: str, scopes: tuple[str, ...]) -> str:
    """Make a key and return its text, this once: `fb_<id>_<32 random bytes>`."""
    key_id, secret = new_id("key"), secrets.token_urlsafe(32)
    text = f"{PREFIX}{key_id.removeprefix('key_')}_{secret}"
    db.add(ApiKey(id=key_id, project_id=project.id, name=name, digest=_digest(text), scopes=list(scopes)))
    return text


def authenticate(db: Session, text: str) -> Caller | None:
    """The caller that this key belongs to; None when it is unknown, revoked or expired."""
    identifier, _, secret = text.removeprefix(PREFIX).partition("_")
    if not text.startswith(PREFIX) or not secret:
        return None
    key = queries.live_key(db, f"key_{identifier}")
    if key is None or not hmac.compare_digest(key.digest, _digest(text)):
        return None
    return Caller(key.id, key.project_id, frozenset(key.scopes))


def _digest(text: str) -> bytes:
    # The secret has 256 random bits: a plain hash cannot be searched, a slow one would only cost time.
    return hashlib.sha256(text.encode()).digest()
