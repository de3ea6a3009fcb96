"""Projects, and the first one."""

from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Project


def named(db: Session, name: str) -> Project:
    """The project with this name, made when there is none."""
    project = queries.project_named(db, name)
    if project is None:
        project = Project(name=name)
        db.add(project)
        db.flush()
    return project
