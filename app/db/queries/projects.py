"""Projects, and the lock under which their quotas are counted."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Project
from app.db.queries.statements import newest_first
from app.domain.errors import NotFound
from app.domain.retention import Retention


def projects_page(db: Session, cursor: str | None, limit: int) -> Sequence[Project]:
    """All projects, newest first, the closed ones too, and one more when there is a next page."""
    return newest_first(db, select(Project), Project, cursor, limit)


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


def retentions(db: Session) -> Sequence[tuple[str, Retention]]:
    """What each project has to say of how long it keeps what."""
    return [(project_id, own) for project_id, own in db.execute(select(Project.id, Project.retention))]


def look_for_any(db: Session) -> None:
    """Read the table of projects, which fails when the database is away or has no tables."""
    db.execute(select(Project.id).limit(1))
