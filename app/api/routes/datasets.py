"""Datasets: samples for calibration and evaluation."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from sqlalchemy.orm import Session

from app.api import fields
from app.api.deps import App, Paged, ReadDb, Service, Wait, Who, WriteDb
from app.api.files import add_dataset, keep_files, refuse_hopeless
from app.api.forms import received_form
from app.api.idempotency import Once, OncePerKey
from app.api.openapi import form_or_json
from app.api.outcome import refuse_rejected
from app.api.refusals import FORMS, refuses
from app.api.schemas.datasets import DatasetCheck, DatasetCreate, DatasetRead
from app.api.schemas.values import Page
from app.db import queries
from app.db.models import Dataset
from app.db.queries import datasets as stored
from app.domain.errors import NotFound
from app.domain.fit import Fit, Question
from app.domain.preview import Preview
from app.services import blobs, datasets, deletion, retention
from app.services.keys import Caller

router = APIRouter(prefix="/datasets", route_class=OncePerKey)
FILES = frozenset({"file"})
FIELDS = frozenset({"name", "preprocess", "input"})
FORM: dict[str, Any] = {
    "required": ["file"],
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "description": "npz, safetensors, h5, parquet, or an archive",
        },
        "name": {"type": "string", "description": "default: the file's name"},
        "preprocess": {
            "type": "string",
            "description": "imagenet, unit, signed, raw, or JSON",
            "example": "unit",
        },
        "input": {"type": "string", "description": "the model's input that images bind to"},
    },
}
EXAMPLE = {
    "name": "digits",
    "sha256": "7f113947dc0755c89299e14d2e7375456fa926d9d3f3ae5b88cfc40c7c1ea020",
    "preprocess": "unit",
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": BINARY, "image/jpeg": BINARY}, "description": "Samples, or one picture"}
}
VERSION = "ver_01k9000000000000000e7amp1e"
CHECKS = {
    "a version": {"value": {"version": VERSION}},
    "a version and a gate": {"value": {"version": VERSION, "gate": {"max_accuracy_drop": 0.01}}},
}


@router.post(
    "",
    status_code=201,
    openapi_extra=form_or_json(FORM, DatasetCreate, EXAMPLE),
    responses=refuses(*FORMS, "not_readable"),
)
async def create_dataset(
    request: Request, response: Response, caller: Who, service: Service, wait: Wait, once: Once
) -> DatasetRead:
    """Upload samples: npz or safetensors (a name is an input's, `labels` holds labels), or a zip or tar.

    AI Hub's h5 and a parquet of images are taken too. An archive holds images (with `labels.csv`, a folder
    per class, masks, or boxes in COCO's JSON), one jsonl or csv table of texts with
    its `tokenizer.json` (columns `text[,label]` or `text_a,text_b,score`), or ONNX `test_data_set_*`.

    `curl -H "Authorization: Bearer $KEY" -F file=@val.zip -F preprocess=imagenet $URL/v1/datasets`
    """
    if request.headers.get("content-type", "").startswith("application/json"):
        dataset_id = await _from_json(request, caller, once)
    else:
        dataset_id = await _from_form(request, caller, service, once)
    response.headers["Location"] = f"/v1/datasets/{dataset_id}"
    await service.watch.settled(dataset_id, wait)
    shown = await service.read(lambda db: _show(db, service, [db.get_one(Dataset, dataset_id)])[0])
    refuse_rejected(shown.id, shown.error, wait)
    return shown


@router.get("")
def list_datasets(caller: Who, db: ReadDb, service: Service, paging: Paged) -> Page[DatasetRead]:
    """The project's datasets, newest first."""
    rows = stored.datasets_page(db, caller.project_id, paging.cursor, paging.limit)
    return paging.show(_show(db, service, rows), lambda shown: shown)


@router.get("/{dataset_id}")
def read_dataset(dataset_id: str, caller: Who, db: ReadDb, service: Service) -> DatasetRead:
    """One dataset: its state, what is in it, or why it was rejected."""
    return _show(db, service, [queries.get_owned(db, Dataset, caller.project_id, dataset_id)])[0]


@router.get("/{dataset_id}/preview", responses=PICTURE | refuses("not_inspected", "expired"))
async def preview_dataset(
    dataset_id: str,
    caller: Who,
    service: Service,
    wait: Wait,
    index: Annotated[int | None, Query(ge=0, le=7, description="Answer this sample's picture alone")] = None,
) -> Preview:
    """The first 8 samples as a person recognizes them: pictures, labels, names, a few values.

    Pictures are what goes into the model, after resize and crop and before scale, mean and std, at most 128
    pixels wide and high, as data URIs. With `index`, that sample's picture is the answer.
    """
    await service.read(lambda db: queries.get_owned(db, Dataset, caller.project_id, dataset_id))
    await service.watch.settled(dataset_id, wait)
    found = await service.read(lambda db: datasets.previewed(db, caller.project_id, dataset_id))
    return found if index is None else _picture(found, index)  # type: ignore[return-value]


@router.post("/{dataset_id}/check", responses=refuses("not_inspected"))
async def check_dataset(
    dataset_id: str,
    body: Annotated[DatasetCheck, Body(openapi_examples=CHECKS)],
    caller: Who,
    service: Service,
    wait: Wait,
) -> Fit:
    """Say before a job whether a dataset fits a version, and how small a drop it can decide.

    Names, shapes, dtypes, ranges and labels are compared as the inspections found them; an `error` among the
    findings would fail the job. `decidable` tells the smallest drop of top1 or top5 that the samples can
    decide when 1, 3 or 5 % of them flip, and how many samples the gate's limits need.
    """
    await service.read(lambda db: datasets.pair(db, caller.project_id, dataset_id, body.version))
    await asyncio.gather(*(service.watch.settled(one, wait) for one in (dataset_id, body.version)))
    question = Question(gate=body.gate, metric=body.metric, input=body.input, candidates=body.candidates)
    return await service.read(
        lambda db: datasets.check(db, caller.project_id, dataset_id, body.version, question)
    )


@router.delete("/{dataset_id}", status_code=204, responses=refuses("in_use"))
def delete_dataset(dataset_id: str, caller: Who, db: WriteDb, service: Service) -> None:
    """Delete a dataset. Its bytes go at once, unless something else here refers to them.

    Finished jobs keep their reports; 409 while an unfinished job uses it.
    """
    deletion.delete_dataset(db, service.storage, caller.project_id, dataset_id)


def _show(db: Session, service: App, rows: Sequence[Dataset]) -> list[DatasetRead]:
    """Datasets of one project, with when each expires."""
    ends = retention.ends_of_datasets(db, service.settings.retention, rows)
    return [DatasetRead.of(row, ends.get(row.id)) for row in rows]


def _picture(preview: Preview, index: int) -> Response:
    """The bytes behind a data URI."""
    samples = [sample for sample in preview.samples if sample.index == index]
    pictures = [array.picture for sample in samples for array in sample.arrays if array.picture]
    if not pictures:
        message = f"There is no picture of sample {index}; without index, the answer shows what there is."
        raise NotFound(message)
    kind, _, data = pictures[0].removeprefix("data:").partition(";base64,")
    return Response(base64.b64decode(data), media_type=kind)


async def _from_json(request: Request, caller: Caller, once: Once) -> str:
    text = (await request.body()).decode(errors="replace")
    body = fields.parse(DatasetCreate, fields.loaded(text, ""), "")
    preprocess = fields.preprocess_value(body.preprocess)

    def create(db: Session) -> str:
        blob = blobs.referable(db, caller.project_id, body.sha256, "/sha256")
        return datasets.add(db, caller.project_id, body.name, blob, preprocess, body.input).id

    return await once.write(create)


async def _from_form(request: Request, caller: Caller, service: App, once: Once) -> str:
    await refuse_hopeless(request, service, caller.project_id)
    async with received_form(request, service.storage, FILES, FIELDS) as form:
        form.file("file")

        def create(db: Session) -> str:
            kept = keep_files(db, service, caller.project_id, form)
            return add_dataset(db, caller.project_id, form, "file", kept).id

        return await once.write(create, form)
