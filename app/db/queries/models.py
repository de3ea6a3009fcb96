"""Models."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.base import new_id, now_us
from app.db.models import Model
from app.db.queries.statements import insert, newest_first


def models_page(db: Session, project_id: str, cursor: str | None, limit: int) -> Sequence[Model]:
    """The project's models, newest first, and one more when there is a next page."""
    chosen = select(Model).where(Model.project_id == project_id, Model.deleted_at.is_(None))
    return newest_first(db, chosen, Model, cursor, limit)


def ensure_model(db: Session, project_id: str, name: str) -> Model:
    """The model with this name, made when there is none, and locked: it cannot be deleted meanwhile."""
    statement = insert(db, Model).values(
        id=new_id("mdl"), project_id=project_id, name=name, created_at=now_us()
    )
    same = {"name": statement.excluded.name}  # an update, though it changes nothing, locks the row
    kept = statement.on_conflict_do_update(index_elements=["project_id", "name"], set_=same)
    return db.get_one(Model, db.scalars(kept.returning(Model.id)).one())
