"""Datasets: samples for calibration and evaluation."""

from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.api import fields
from app.api.deps import App, Cursor, Limit, ReadDb, Service, Wait, Who, WriteDb, page
from app.api.forms import Form, received_form
from app.api.openapi import form_or_json
from app.api.outcome import refuse_rejected
from app.api.schemas import DatasetCreate, DatasetRead, Page
from app.db import queries
from app.db.models import Dataset
from app.services import blobs, datasets, deletion
from app.services.keys import Caller

router = APIRouter(prefix="/datasets", tags=["datasets"])
FILES = frozenset({"file"})
FIELDS = frozenset({"name", "preprocess", "input"})
FORM: dict[str, Any] = {
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "npz, or a zip or tar of images"},
        "name": {"type": "string", "description": "default: the file's name"},
        "preprocess": {
            "type": "string",
            "description": "imagenet, unit, signed, raw, or JSON",
            "example": "imagenet",
        },
        "input": {"type": "string", "description": "the model's input that images bind to"},
    },
}


@router.post("", status_code=201, openapi_extra=form_or_json(FORM, DatasetCreate))
async def create_dataset(
    request: Request, response: Response, caller: Who, service: Service, wait: Wait
) -> DatasetRead:
    """Upload samples: npz (a key is an input's name, `labels` holds labels) or a zip or tar of images.

    `curl -H "Authorization: Bearer $KEY" -F file=@val.zip -F preprocess=imagenet $URL/v1/datasets`
    """
    if request.headers.get("content-type", "").startswith("application/json"):
        dataset_id = await _from_json(request, caller, service)
    else:
        dataset_id = await _from_form(request, caller, service)
    response.headers["Location"] = f"/v1/datasets/{dataset_id}"
    await service.watch.settled(dataset_id, wait)
    shown = await service.read(lambda db: DatasetRead.of(db.get_one(Dataset, dataset_id)))
    refuse_rejected(shown.id, shown.error, wait)
    return shown


@router.get("")
def list_datasets(
    request: Request, response: Response, caller: Who, db: ReadDb, limit: Limit = 20, cursor: Cursor = None
) -> Page[DatasetRead]:
    """The project's datasets, newest first."""
    chosen = select(Dataset).where(Dataset.project_id == caller.project_id, Dataset.deleted_at.is_(None))
    rows = queries.newest_first(db, chosen, Dataset, cursor, limit)
    return page(request, response, rows, limit, DatasetRead.of)


@router.get("/{dataset_id}")
def read_dataset(dataset_id: str, caller: Who, db: ReadDb) -> DatasetRead:
    """One dataset: its state, what is in it, or why it was rejected."""
    return DatasetRead.of(queries.get_owned(db, Dataset, caller.project_id, dataset_id))


@router.delete("/{dataset_id}", status_code=204)
def delete_dataset(dataset_id: str, caller: Who, db: WriteDb, service: Service) -> None:
    """Delete a dataset. Its bytes go at once, unless something else here refers to them.

    Finished jobs keep their reports; 409 while an unfinished job uses it.
    """
    deletion.delete_dataset(db, service.storage, caller.project_id, dataset_id)


async def _from_json(request: Request, caller: Caller, service: App) -> str:
    text = (await request.body()).decode(errors="replace")
    body = fields.parse(DatasetCreate, fields.loaded(text, ""), "")
    preprocess = fields.preprocess_value(body.preprocess)

    def create(db: Session) -> str:
        blob = blobs.referable(db, caller.project_id, body.sha256, "/sha256")
        return datasets.add(db, caller.project_id, body.name, blob, preprocess, body.input).id

    return await service.write(create)


async def _from_form(request: Request, caller: Caller, service: App) -> str:
    async with received_form(request, service.storage, FILES, FIELDS) as form:
        form.file("file")
        return await service.write(lambda db: add_from_form(db, service, caller, form, "file").id)


def add_from_form(db: Session, service: App, caller: Caller, form: Form, part: str) -> Dataset:
    """A dataset from the file part of this name."""
    preprocess = fields.preprocess(form.fields.get("preprocess", ""))
    file = form.file(part)
    blob = blobs.keep(db, service.storage, caller.project_id, file.received, service.settings.blob_grace_s)
    name = (form.fields.get("name") or file.filename.rpartition("/")[2] or "data")[:200]
    return datasets.add(db, caller.project_id, name, blob, preprocess, form.fields.get("input") or None)
