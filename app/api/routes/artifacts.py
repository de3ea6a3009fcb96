"""The files that jobs made."""

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from app.api.deps import App, ReadDb, Service, Who
from app.api.download import BINARY, MAY_EXPIRE, Object, send_object
from app.db import queries
from app.db.models import Artifact
from app.db.queries import retention
from app.services import artifacts, blobs

ANY_TYPE = MAY_EXPIRE | {status: MAY_EXPIRE[status] | {"content": {"*/*": BINARY}} for status in (200, 206)}
router = APIRouter(prefix="/artifacts")


@router.get("/{artifact_id}/content", responses=ANY_TYPE, response_class=Response)
@router.head("/{artifact_id}/content", include_in_schema=False)
def download_artifact(
    artifact_id: str, request: Request, caller: Who, db: ReadDb, service: Service
) -> Response:
    """A file that a job made; its ETag is its SHA-256. Takes `Range`, `If-Range`, `If-None-Match`, HEAD."""
    if left := retention.expired_artifact(db, caller.project_id, artifact_id):
        raise artifacts.gone(left)
    artifact = queries.get_owned(db, Artifact, caller.project_id, artifact_id)
    return send_artifact(request, service, db, artifact)


def send_artifact(request: Request, service: App, db: Session, artifact: Artifact) -> Response:
    """The bytes of an artifact."""
    blob = blobs.whole(db, artifact.sha256)
    what = Object(blob.sha256, blob.key, blob.size, artifact.filename)
    return send_object(request, service.storage, what, artifact.media_type)
