"""Datasets: stored at once, inspected by a worker before anything uses them."""

from sqlalchemy.orm import Session

from app.db.models import Blob, Dataset
from app.domain.dataset import Preprocess
from app.domain.errors import Problem
from app.domain.job import check_transition
from app.domain.preview import Preview
from app.domain.report import DatasetSummary
from app.services import blobs, events, manifest, reuse, steps
from app.storage import Storage


def add(
    db: Session, project_id: str, name: str, blob: Blob, preprocess: Preprocess, input_name: str | None
) -> Dataset:
    """Store a dataset and queue its inspection."""
    dataset = Dataset(
        project_id=project_id,
        name=name,
        sha256=blob.sha256,
        size=blob.size,
        preprocess=preprocess,
        input=input_name,
    )
    db.add(dataset)
    db.flush()
    events.record(db, project_id, dataset.id, "dataset.created", state=dataset.state)
    if reuse.inspection(db, dataset):
        events.record(db, project_id, dataset.id, "dataset.ready", state="ready")
    else:
        steps.enqueue(db, project_id, "inspect_dataset", dataset.id)
    return dataset


def accept(db: Session, dataset_id: str, summary: DatasetSummary, preview: Preview | None = None) -> None:
    """The inspection found nothing wrong."""
    dataset = db.get_one(Dataset, dataset_id, with_for_update=True)
    check_transition("dataset", dataset.state, "ready")
    dataset.state, dataset.summary, dataset.inspected_by = "ready", summary, manifest.tools()
    dataset.preview = preview
    events.record(db, dataset.project_id, dataset.id, "dataset.ready", state="ready")


def reject(db: Session, storage: Storage, dataset_id: str, problem: Problem) -> None:
    """The upload cannot be used: the row stays with its problem, the bytes go."""
    dataset = db.get_one(Dataset, dataset_id, with_for_update=True)
    check_transition("dataset", dataset.state, "rejected")
    sha256, dataset.sha256 = dataset.sha256, None
    dataset.state, dataset.problem = "rejected", problem
    db.flush()
    blobs.drop(db, storage, dataset.project_id, str(sha256))
    events.record(db, dataset.project_id, dataset.id, "dataset.rejected", state="rejected", code=problem.code)
