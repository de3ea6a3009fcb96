"""What a job takes in: versions and datasets alike."""

from sqlalchemy.orm import Session

from app.db.models import Dataset, Version
from app.domain.errors import NotFound


def job_input(db: Session, row_id: str) -> Version | Dataset:
    """The version or dataset with this id."""
    return db.get_one(Version, row_id) if row_id.startswith("ver_") else db.get_one(Dataset, row_id)


def share_job_input(db: Session, project_id: str, row_id: str) -> Version | Dataset:
    """A version or dataset that cannot change its state until this transaction ends.

    Raises:
        NotFound: There is no such row in this project.
    """
    row: Version | Dataset | None
    if row_id.startswith("ver_"):
        row = db.get(Version, row_id, with_for_update={"read": True}, populate_existing=True)
    else:
        row = db.get(Dataset, row_id, with_for_update={"read": True}, populate_existing=True)
    if row is None or row.project_id != project_id or row.deleted_at:
        raise NotFound(f"There is nothing with the id {row_id!r} in this project.")
    return row
