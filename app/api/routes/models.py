"""Models and their versions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from app.api import fields
from app.api.deps import App, Paged, ReadDb, Service, Wait, Who, WriteDb
from app.api.download import MAY_EXPIRE, Object, send_object, send_zip
from app.api.files import add_version, keep_files, refuse_hopeless
from app.api.forms import received_form
from app.api.idempotency import Once, OncePerKey
from app.api.openapi import form_or_json
from app.api.outcome import refuse_rejected
from app.api.refusals import FORMS, refuses
from app.api.schemas.models import ModelCreate, ModelRead, VersionRead
from app.api.schemas.values import Page
from app.db import queries
from app.db.models import Model, Version, VersionFile
from app.db.queries import models as stored
from app.db.queries import versions
from app.domain.errors import NotFound
from app.services import blobs, deletion, models, retention
from app.services.keys import Caller

router = APIRouter(route_class=OncePerKey)
FILES = frozenset({"file"})
FIELDS = frozenset({"name", "labels"})
FORM: dict[str, Any] = {
    "required": ["file"],
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "description": "the model; repeat it for external data, or send a zip or tar",
        },
        "name": {"type": "string", "description": "default: the file's name"},
        "labels": {
            "type": "string",
            "description": "JSON object of strings",
            "example": '{"branch": "main"}',
        },
    },
}
EXAMPLE = {
    "name": "digits",
    "files": {"digits.onnx": "db01934a02281c10f1c6acdc976a7e1201b8e4cc00315510b9c18752980f26de"},
    "labels": {"branch": "main"},
}


@router.post(
    "/models",
    status_code=201,
    openapi_extra=form_or_json(FORM, ModelCreate, EXAMPLE),
    responses=refuses(*FORMS, "not_onnx"),
)
async def create_version(
    request: Request, response: Response, caller: Who, service: Service, wait: Wait, once: Once
) -> VersionRead:
    """Upload a model: a new version under its name, inspected by a worker before anything uses it.

    External data come as further files, or everything in one zip or tar with a single `.onnx` file (or a
    single `model.onnx`); of an archive the version keeps the model, the files that it names, and the ONNX
    test data (`test_data_set_*`) beside it, on which a job without data measures fidelity and latency.

    `curl -H "Authorization: Bearer $KEY" -F file=@model.onnx -F name=digits $URL/v1/models`
    """
    if request.headers.get("content-type", "").startswith("application/json"):
        version_id = await _from_json(request, caller, once)
    else:
        version_id = await _from_form(request, caller, service, once)
    response.headers["Location"] = f"/v1/versions/{version_id}"
    await service.watch.settled(version_id, wait)
    shown = await service.read(lambda db: _show(db, service, [db.get_one(Version, version_id)])[0])
    refuse_rejected(shown.id, shown.error, wait)
    return shown


@router.get("/models")
def list_models(caller: Who, db: ReadDb, paging: Paged) -> Page[ModelRead]:
    """The project's models, newest first."""
    rows = stored.models_page(db, caller.project_id, paging.cursor, paging.limit)
    return paging.show(rows, ModelRead.of)


@router.get("/models/{model_id}")
def read_model(model_id: str, caller: Who, db: ReadDb) -> ModelRead:
    """One model."""
    return ModelRead.of(queries.get_owned(db, Model, caller.project_id, model_id))


@router.delete("/models/{model_id}", status_code=204, responses=refuses("in_use"))
def delete_model(model_id: str, caller: Who, db: WriteDb, service: Service) -> None:
    """Delete a model with all its versions; their bytes go, unless something else here refers to them.

    Finished jobs keep their reports and the quantized models that they made. While an unfinished job uses it,
    the answer is 409.
    """
    deletion.delete_model(db, service.storage, caller.project_id, model_id)


@router.get("/models/{model_id}/versions")
def list_versions(
    model_id: str,
    caller: Who,
    db: ReadDb,
    service: Service,
    paging: Paged,
) -> Page[VersionRead]:
    """A model's versions, newest first."""
    model = queries.get_owned(db, Model, caller.project_id, model_id)
    rows = versions.versions_page(db, model.id, paging.cursor, paging.limit)
    return paging.show(_show(db, service, rows), lambda shown: shown)


@router.get("/versions/{version_id}")
def read_version(version_id: str, caller: Who, db: ReadDb, service: Service) -> VersionRead:
    """One version: its state, what is in it, or why it was rejected."""
    return _show(db, service, [queries.get_owned(db, Version, caller.project_id, version_id)])[0]


@router.get("/versions/{version_id}/content", responses=MAY_EXPIRE, response_class=Response)
@router.head("/versions/{version_id}/content", include_in_schema=False)
def download_version(
    version_id: str,
    request: Request,
    caller: Who,
    db: ReadDb,
    service: Service,
    path: Annotated[str | None, Query(description="One file of several, such as `model.onnx.data`")] = None,
) -> Response:
    """The uploaded bytes: the file, several as a zip without compression, or the one at `path`.

    A single file takes `Range`, `If-Range`, `If-None-Match` and HEAD.
    """
    version = queries.get_owned(db, Version, caller.project_id, version_id)
    models.refuse_expired(version)
    files = [_stored(db, file) for file in version.files if path in {None, file.path}]
    if not files:
        message = f"The version {version_id} has no file {path or ''}; a rejected upload's bytes are gone."
        raise NotFound(message)
    if len(files) > 1:
        return send_zip(request, service.storage, files, f"{version.model.name}.zip")
    (only,) = files
    named = replace(only, filename=only.filename.rpartition("/")[2])
    return send_object(request, service.storage, named, "application/octet-stream")


def _show(db: Session, service: App, rows: Sequence[Version]) -> list[VersionRead]:
    """Versions of one project, with when each expires."""
    ends = retention.ends_of_versions(db, service.settings.retention, rows)
    return [VersionRead.of(row, ends.get(row.id)) for row in rows]


def _stored(db: Session, file: VersionFile) -> Object:
    blob = blobs.whole(db, file.sha256)
    return Object(blob.sha256, blob.key, blob.size, file.path)


async def _from_json(request: Request, caller: Caller, once: Once) -> str:
    body = fields.parse(ModelCreate, fields.loaded((await request.body()).decode(errors="replace"), ""), "")
    paths = fields.file_paths(body.files, "/files")

    def create(db: Session) -> str:
        digests = sorted(set(body.files.values()))  # the order of locks
        found = {sha256: blobs.referable(db, caller.project_id, sha256, "/files") for sha256 in digests}
        files = [(path, found[sha256]) for path, sha256 in zip(paths, body.files.values(), strict=True)]
        return models.add_version(db, caller.project_id, body.name, files, body.labels).id

    return await once.write(create)


async def _from_form(request: Request, caller: Caller, service: App, once: Once) -> str:
    await refuse_hopeless(request, service, caller.project_id)
    async with received_form(request, service.storage, FILES, FIELDS) as form:
        form.every("file")
        labels = fields.labels(form.fields.get("labels", ""))

        def create(db: Session) -> str:
            kept = keep_files(db, service, caller.project_id, form)
            return add_version(db, caller.project_id, form, "file", kept, labels).id

        return await once.write(create, form)
