"""Projects and keys."""

from sqlalchemy import (
    and_,
    select,
)
from sqlalchemy.orm import Session

from app.db.base import now_us
from app.db.models import (
    ApiKey,
    Project,
)


def project_named(db: Session, name: str) -> Project | None:
    """The project with this name."""
    return db.scalars(select(Project).where(Project.name == name)).one_or_none()


def live_key(db: Session, key_id: str) -> ApiKey | None:
    """A key that is neither revoked nor expired."""
    expired = and_(ApiKey.expires_at.is_not(None), ApiKey.expires_at <= now_us())
    statement = select(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None), ~expired)
    return db.scalars(statement).one_or_none()
