"""Versions of models."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from app.db.models import Version
from app.db.queries.statements import newest_first


def versions_page(db: Session, model_id: str, cursor: str | None, limit: int) -> Sequence[Version]:
    """A model's versions with their files, newest first, and one more when there is a next page."""
    chosen = select(Version).where(Version.model_id == model_id).options(selectinload(Version.files))
    return newest_first(db, chosen, Version, cursor, limit)
