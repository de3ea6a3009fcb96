"""Projects, keys, and the browser sessions that keys open."""

from sqlalchemy import (
    delete,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, now_us
from app.db.models import (
    ApiKey,
    BrowserSession,
    Project,
)
from app.domain.errors import NotFound

USE_NOTED = 60 * MICROSECONDS


def project_named(db: Session, name: str) -> Project | None:
    """The project with this name."""
    return db.scalars(select(Project).where(Project.name == name)).one_or_none()


def project(db: Session, project_id: str) -> Project:
    """The project.

    Raises:
        NotFound: There is none with this id.
    """
    found = db.get(Project, project_id)
    if found is None:
        raise NotFound(f"There is no project with the id {project_id!r}.")
    return found


def lock_project(db: Session, project_id: str) -> Project:
    """The project, locked until the transaction ends; rows that refer to it can still be written.

    Raises:
        NotFound: There is none with this id.
    """
    statement = select(Project).where(Project.id == project_id).with_for_update(key_share=True)
    project = db.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if project is None:
        raise NotFound(f"There is no project with the id {project_id!r}.")
    return project


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
