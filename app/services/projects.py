"""Projects: opened, given quotas and a retention, closed."""

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Project
from app.db.queries import projects as stored
from app.domain.errors import Conflict
from app.domain.quota import Quotas
from app.domain.retention import Retention
from app.services import events, jobs
from app.services.keys import Caller

NO_QUOTAS = Quotas()
FOR_GOOD = Retention()


def named(db: Session, name: str) -> Project:
    """The project with this name, made when there is none."""
    return queries.project_named(db, name) or create(db, name)


def create(db: Session, name: str, quotas: Quotas = NO_QUOTAS, retention: Retention = FOR_GOOD) -> Project:
    """A new project.

    Raises:
        Conflict: There is one of this name.
    """
    project = Project(name=name, quotas=quotas, retention=retention)
    db.add(project)
    _flush(db, name)
    events.record(db, project.id, project.id, "project.created", name=name)
    return project


def change(db: Session, project_id: str, changes: dict[str, object]) -> Project:
    """Set a project's `name`, `quotas` or `retention`, or open it again with `closed_at` None.

    Raises:
        Conflict: Another project has this name.
    """
    project = stored.lock_project(db, project_id)
    for column, value in changes.items():
        setattr(project, column, value)
    _flush(db, project.name)
    events.record(db, project.id, project.id, "project.changed", changed=sorted(changes))
    return project


def close(db: Session, caller: Caller, project_id: str) -> None:
    """Stop a project: its keys end to work and its open jobs are canceled; what it has stays.

    Raises:
        Conflict: It is the caller's own.
    """
    project = stored.lock_project(db, project_id)
    if project.id == caller.project_id:
        raise Conflict("Your key belongs to this project; close it with a key of another one.")
    if project.closed_at is None:
        project.closed_at = queries.now(db)
        events.record(db, project.id, project.id, "project.closed")
        jobs.cancel_all(db, project.id)


def _flush(db: Session, name: str) -> None:
    try:
        db.flush()
    except IntegrityError as error:
        raise Conflict(f"There is a project named {name!r} already; choose another name.") from error
