"""Datasets."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Dataset
from app.db.queries.statements import newest_first


def datasets_page(db: Session, project_id: str, cursor: str | None, limit: int) -> Sequence[Dataset]:
    """The project's datasets, newest first, and one more when there is a next page."""
    chosen = select(Dataset).where(Dataset.project_id == project_id, Dataset.deleted_at.is_(None))
    return newest_first(db, chosen, Dataset, cursor, limit)
