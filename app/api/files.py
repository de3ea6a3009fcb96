"""The files of a form as blobs of the project, within its quota, and what becomes of them."""

from collections.abc import Mapping

from fastapi import Request
from sqlalchemy.orm import Session

from app.api import fields
from app.api.deps import App
from app.api.forms import FIELD_BYTES, Form
from app.db.models import Blob, Dataset, Version
from app.domain.errors import NoSpaceLeft
from app.services import blobs, datasets, models, quotas


def keep_files(db: Session, service: App, project_id: str, form: Form) -> dict[str, Blob]:
    """The blobs of all files, by their keys in the store.

    Raises:
        NoSpaceLeft: The project has no room for them.
    """
    settings = service.settings
    received = [file.received for files in form.files.values() for file in files]
    with quotas.storing(db, project_id, settings.quotas):
        return blobs.keep_all(db, service.storage, project_id, received, settings.blob_grace_s)


def add_version(
    db: Session, project_id: str, form: Form, part: str, kept: Mapping[str, Blob], labels: Mapping[str, str]
) -> Version:
    """A version from the file parts of this name."""
    sent, name = form.files[part], form.fields.get("name", "")
    names = [file.filename.rpartition("/")[2] or "model.onnx" for file in sent]
    paths = fields.file_paths(names, f"/{part}")
    files = [(path, kept[file.received.key]) for path, file in zip(paths, sent, strict=True)]
    return models.add_version(db, project_id, name[:200], files, labels)


def add_dataset(db: Session, project_id: str, form: Form, part: str, kept: Mapping[str, Blob]) -> Dataset:
    """A dataset from the file part of this name."""
    preprocess = fields.preprocess(form.fields.get("preprocess", ""))
    input_name = fields.input_name(form.fields.get("input", ""))
    file = form.file(part)
    name = (form.fields.get("name") or file.filename.rpartition("/")[2] or "data")[:200]
    return datasets.add(db, project_id, name, kept[file.received.key], preprocess, input_name)


async def refuse_hopeless(request: Request, service: App, project_id: str) -> None:
    """Refuse a form before it is read when all of the project's room would not hold it.

    What is here already costs nothing, so only what exceeds the whole quota is hopeless.

    Raises:
        NoSpaceLeft: It does.
    """
    announced = int(request.headers.get("content-length", 0))
    defaults = service.settings.quotas
    limit = await service.read(lambda db: quotas.of(db, project_id, defaults).bytes)
    if limit is not None and announced - FIELD_BYTES > limit:
        raise NoSpaceLeft(f"The project may store {limit} bytes, and {announced} come with this request.")
