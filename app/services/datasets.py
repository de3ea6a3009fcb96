"""Datasets: stored at once, inspected by a worker before anything uses them."""

from collections.abc import Iterator
from dataclasses import replace

from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Blob, Dataset, Version
from app.domain import fit
from app.domain.dataset import Preprocess
from app.domain.errors import Expired, FieldError, InvalidInput, NotFound, NotInspected, Problem
from app.domain.fit import Finding, Fit, Question
from app.domain.job import check_transition
from app.domain.preview import Preview
from app.domain.report import DatasetSummary
from app.domain.retention import day
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
    """The upload cannot be used: the row stays with its problem, the bytes go.

    Where trying again may help they stay for a day from now on.
    """
    dataset = db.get_one(Dataset, dataset_id, with_for_update=True)
    check_transition("dataset", dataset.state, "rejected")
    sha256, dataset.sha256 = dataset.sha256, None
    dataset.state, dataset.problem = "rejected", problem
    db.flush()
    blobs.let_go(db, storage, dataset.project_id, [str(sha256)], again=problem.retryable)
    events.record(db, dataset.project_id, dataset.id, "dataset.rejected", state="rejected", code=problem.code)


def previewed(db: Session, project_id: str, dataset_id: str) -> Preview:
    """The first samples of a dataset.

    Raises:
        NotInspected: It is still being inspected.
        Expired: Its bytes went because no job took it for long.
        NotFound: It was rejected, or inspected before previews were kept.
    """
    dataset = queries.get_owned(db, Dataset, project_id, dataset_id)
    _refuse_uninspected(dataset)
    if dataset.expired_at:
        raise Expired(
            f"The samples of {dataset_id} expired on {day(dataset.expired_at)}: no job had taken them for as "
            "long as this project keeps datasets. Its SHA-256 and summary are kept; upload it again."
        )
    if dataset.preview is None:
        why = "was rejected" if dataset.state == "rejected" else "was inspected before previews were kept"
        raise NotFound(f"The dataset {dataset_id} {why}; upload it again to see its samples.")
    return dataset.preview


def pair(db: Session, project_id: str, dataset_id: str, version_id: str) -> tuple[Dataset, Version]:
    """A dataset, and the version that a request names beside it.

    Raises:
        NotFound: The project has no such dataset.
        InvalidInput: The project has no such version.
    """
    dataset = queries.get_owned(db, Dataset, project_id, dataset_id)
    try:
        return dataset, queries.get_owned(db, Version, project_id, version_id)
    except NotFound as error:
        raise InvalidInput(error.detail, errors=(FieldError("/version", error.detail),)) from error


def check(db: Session, project_id: str, dataset_id: str, version_id: str, question: Question) -> Fit:
    """Whether a dataset fits a version, and what it can decide.

    Raises:
        NotInspected: One of both is still being inspected.
    """
    dataset, version = pair(db, project_id, dataset_id, version_id)
    for row in (dataset, version):
        _refuse_uninspected(row)
    unusable = tuple(_unusable(dataset, version))
    if unusable or dataset.summary is None or version.examination is None:
        return Fit(False, unusable, None)
    asked = question if question.input is not None else replace(question, input=dataset.input)
    return fit.check(version.examination, dataset.summary, dataset.preprocess, asked)


def _refuse_uninspected(row: Dataset | Version) -> None:
    if row.state == "inspecting":
        raise NotInspected(f"{row.id} is still being inspected; ask again, or send `Prefer: wait=60`.")


def _unusable(dataset: Dataset, version: Version) -> Iterator[Finding]:
    """Why no job takes one of them, if so."""
    for pointer, row in (("/dataset", dataset), ("/version", version)):
        if row.problem:
            yield Finding("error", pointer, f"{row.id} was rejected: {row.problem.detail}")
        elif row.expired_at:
            detail = f"{row.id} expired on {day(row.expired_at)}; upload it again"
            yield Finding("error", pointer, detail)
