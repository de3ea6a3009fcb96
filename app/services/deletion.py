"""Deleting models and datasets: their bytes go at once, and the reports of finished jobs stay readable.

The rows stay, hidden, because jobs refer to them. What a job made of them stays too; what it derived
for its own use goes, since it holds their weights or samples.
"""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Dataset, Model
from app.db.queries import deletion
from app.domain.errors import InUse
from app.services import blobs, events
from app.storage import Storage

NAME = 200
SHOWN = 3


def delete_model(db: Session, storage: Storage, project_id: str, model_id: str) -> None:
    """Delete a model with all its versions; its name is free again.

    Raises:
        NotFound: This project has no such model.
        InUse: An unfinished job uses one of its versions.
    """
    queries.get_owned(db, Model, project_id, model_id)
    model = db.get_one(Model, model_id, with_for_update=True, populate_existing=True)
    upload_ids = deletion.version_ids(db, model_id)
    deletion.cancel_inspections(db, upload_ids)
    versions = deletion.lock_versions(db, model_id)
    _refuse_use(db, project_id, model_id, upload_ids)
    digests = [file.sha256 for version in versions for file in version.files]
    model.deleted_at = now = queries.now(db)
    model.name = f"{model.id} {model.name}"[:NAME]
    for version in versions:
        version.files, version.content_key, version.deleted_at = [], None, now
    _drop(db, storage, project_id, upload_ids, digests)
    events.record(db, project_id, model_id, "model.deleted")


def delete_dataset(db: Session, storage: Storage, project_id: str, dataset_id: str) -> None:
    """Delete a dataset.

    Raises:
        NotFound: This project has no such dataset.
        InUse: An unfinished job uses it.
    """
    queries.get_owned(db, Dataset, project_id, dataset_id)
    deletion.cancel_inspections(db, [dataset_id])
    dataset = db.get_one(Dataset, dataset_id, with_for_update=True, populate_existing=True)
    _refuse_use(db, project_id, dataset_id, [dataset_id])
    digests = [dataset.sha256] if dataset.sha256 else []
    dataset.sha256 = dataset.content_key = dataset.preview = None
    dataset.deleted_at = queries.now(db)
    _drop(db, storage, project_id, [dataset_id], digests)
    events.record(db, project_id, dataset_id, "dataset.deleted")


def _refuse_use(db: Session, project_id: str, subject_id: str, upload_ids: Sequence[str]) -> None:
    if using := queries.open_jobs_using(db, project_id, upload_ids):
        some = ", ".join(using[:SHOWN])
        detail = f"{len(using)} unfinished jobs use {subject_id}, such as {some}; cancel them or wait."
        raise InUse(detail)


def _drop(
    db: Session, storage: Storage, project_id: str, upload_ids: Sequence[str], digests: list[str]
) -> None:
    derived = deletion.intermediate_artifacts(db, upload_ids)
    for artifact in derived:
        db.delete(artifact)
    db.flush()
    for sha256 in sorted({*digests, *(artifact.sha256 for artifact in derived)}):
        blobs.drop(db, storage, project_id, sha256)
