"""Keys, and the browser sessions that they open."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import bindparam, delete, or_, select, update
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, now_us
from app.db.keys import ApiKey, BrowserSession
from app.db.models import Project
from app.db.queries.statements import newest_first

USE_NOTED = 60 * MICROSECONDS


class Credential(NamedTuple):
    """What decides whether a key is let in, and the moment of looking; all moments in microseconds."""

    key_id: str
    digest: bytes
    scopes: Sequence[str]
    project_id: str
    revoked_at: int | None
    expires_at: int | None
    closed_at: int | None
    now: int


# Every request asks this: columns cost half of what objects do, and a statement that is there costs nothing.
CREDENTIAL = (
    select(
        *(ApiKey.id, ApiKey.digest, ApiKey.scopes, ApiKey.project_id, ApiKey.revoked_at, ApiKey.expires_at),
        *(Project.closed_at, now_us()),
    )
    .join(Project, Project.id == ApiKey.project_id)
    .where(ApiKey.id == bindparam("key_id"))
)


def credential(db: Session, key_id: str) -> Credential | None:
    """This key with the state of its project; None where there is none."""
    row = db.execute(CREDENTIAL, {"key_id": key_id}).one_or_none()
    return Credential(*row) if row else None


def keys_page(db: Session, project_id: str, cursor: str | None, limit: int) -> Sequence[ApiKey]:
    """The project's keys, newest first, the revoked ones too, and one more when there is a next page."""
    chosen = select(ApiKey).where(ApiKey.project_id == project_id)
    return newest_first(db, chosen, ApiKey, cursor, limit)


def note_use(db: Session, key_id: str) -> None:
    """Write down that a key is in use, at most once a minute."""
    long_ago = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now_us() - USE_NOTED)
    db.execute(update(ApiKey).where(ApiKey.id == key_id, long_ago).values(last_used_at=now_us()))


def close_browser_sessions(db: Session, key_id: str) -> None:
    """End every session that this key opened."""
    db.execute(delete(BrowserSession).where(BrowserSession.key_id == key_id))


def forget_browser_sessions(db: Session) -> None:
    """Remove the sessions whose time is over."""
    db.execute(delete(BrowserSession).where(BrowserSession.expires_at <= now_us()))
