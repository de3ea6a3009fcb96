"""Deleting models, datasets and jobs: their bytes go at once, and the audit keeps their digests.

The rows stay, hidden, because others refer to them. The report of a finished job stays readable without its
model and data, and so does what it made of them; what it derived for its own use goes, since it holds their
weights or samples.
"""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Artifact, Dataset, Job, Model
from app.db.queries import deletion, earlier
from app.domain import against
from app.domain.errors import InUse, JobNotFinished
from app.domain.job import JOB_OPEN
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
    digests = {file.sha256 for version in versions for file in version.files}
    model.deleted_at = now = queries.now(db)
    model.name = f"{model.id} {model.name}"[:NAME]
    for version in versions:
        version.files, version.content_key, version.deleted_at = [], None, now
    _drop(db, storage, project_id, upload_ids, digests)
    events.record(db, project_id, model_id, "model.deleted", sha256=sorted(digests))


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
    digests = {dataset.sha256} if dataset.sha256 else set()
    dataset.sha256 = dataset.content_key = dataset.preview = None
    dataset.deleted_at = queries.now(db)
    _drop(db, storage, project_id, [dataset_id], digests)
    events.record(db, project_id, dataset_id, "dataset.deleted", sha256=sorted(digests))


def delete_job(db: Session, storage: Storage, project_id: str, job_id: str) -> None:
    """Delete a job that has ended, with its report and every file that it made.

    Raises:
        NotFound: This project has no such job.
        JobNotFinished: It has not ended.
        InUse: An unfinished job's gate compares with it.
    """
    job = queries.lock_owned(db, Job, project_id, job_id)
    if job.state in JOB_OPEN:
        raise JobNotFinished(f"The job {job_id} is {job.state}; cancel it, or wait for its end.")
    _refuse_comparison(db, job)
    made = deletion.job_artifacts(db, job_id)
    digests = {artifact.sha256 for artifact in made}
    job.deleted_at = queries.now(db)
    deletion.forget_rows_of_job(db, job_id)
    _let_go(db, storage, project_id, made, digests)
    events.record(db, project_id, job_id, "job.deleted", sha256=sorted(digests))


def _refuse_comparison(db: Session, job: Job) -> None:
    for other in deletion.open_jobs_of_model(db, job.project_id, job.model_id):
        gate = other.spec.gate
        found = earlier.succeeded_job(db, other, against.parse(gate.against)) if gate else None
        if found is job:
            detail = f"The unfinished job {other.id} compares with {job.id}; cancel it, or wait for its end."
            raise InUse(detail)


def _refuse_use(db: Session, project_id: str, subject_id: str, upload_ids: Sequence[str]) -> None:
    if using := queries.open_jobs_using(db, project_id, upload_ids):
        some = ", ".join(using[:SHOWN])
        detail = f"{len(using)} unfinished jobs use {subject_id}, such as {some}; cancel them or wait."
        raise InUse(detail)


def _drop(
    db: Session, storage: Storage, project_id: str, upload_ids: Sequence[str], digests: set[str]
) -> None:
    derived = deletion.intermediate_artifacts(db, upload_ids)
    _let_go(db, storage, project_id, derived, digests | {artifact.sha256 for artifact in derived})


def _let_go(
    db: Session, storage: Storage, project_id: str, artifacts: Sequence[Artifact], digests: set[str]
) -> None:
    """Remove these files' rows, and then all bytes that nothing else refers to."""
    for artifact in artifacts:
        db.delete(artifact)
    db.flush()
    for sha256 in sorted(digests):
        blobs.drop(db, storage, project_id, sha256)
