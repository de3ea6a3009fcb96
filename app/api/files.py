"""The files of a form as blobs of the project, within its quota."""

from fastapi import Request
from sqlalchemy.orm import Session

from app.api.deps import App
from app.api.forms import FIELD_BYTES, Form
from app.db.models import Blob
from app.domain.errors import NoSpaceLeft
from app.services import blobs, quotas


def keep_files(db: Session, service: App, project_id: str, form: Form) -> dict[str, Blob]:
    """The blobs of all files, by their keys in the store.

    Raises:
        NoSpaceLeft: The project has no room for them.
    """
    settings = service.settings
    received = [file.received for files in form.files.values() for file in files]
    quotas.hold(db, project_id, settings.quotas)
    kept = blobs.keep_all(db, service.storage, project_id, received, settings.blob_grace_s)
    quotas.check_bytes(db, project_id, settings.quotas)
    return kept


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
