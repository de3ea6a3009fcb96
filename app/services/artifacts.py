"""Files that jobs make."""

from collections.abc import Iterable

from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Artifact, Job
from app.db.retention import ExpiredArtifact
from app.domain.errors import Expired
from app.domain.retention import day
from app.services import blobs
from app.storage import Received, Storage

# Artifacts keep their bytes by reference; the project's own right to them is as short as it may be.
UNREFERENCED_SECONDS = 3600
MEDIA_TYPES = {
    "onnx": "application/octet-stream",
    "npz": "application/zip",
    "data": "application/octet-stream",
    "json": "application/json",
}


def add(
    db: Session, storage: Storage, job: Job, subject_id: str, kind: str, filename: str, received: Received
) -> Artifact:
    """Record a file that a step of this job made."""
    blob = blobs.keep(db, storage, job.project_id, received, UNREFERENCED_SECONDS)
    artifact = Artifact(
        project_id=job.project_id,
        job_id=job.id,
        subject_id=subject_id,
        kind=kind,
        filename=filename,
        media_type=MEDIA_TYPES.get(filename.rpartition(".")[2], "application/octet-stream"),
        sha256=blob.sha256,
        size=blob.size,
    )
    db.add(artifact)
    db.flush()
    return artifact


def share(db: Session, job: Job, subject_id: str, made: Iterable[Artifact]) -> bool:
    """Let a job have files that another one made of the same content; False when there are none any more."""
    found = sorted(made, key=lambda artifact: artifact.sha256)  # the order of locks
    if not all(queries.project_blob(db, job.project_id, a.sha256, keep=True) for a in found):
        return False
    copied = ("project_id", "kind", "filename", "media_type", "sha256", "size")
    for artifact in found:
        values = {name: getattr(artifact, name) for name in copied}
        db.add(Artifact(job_id=job.id, subject_id=subject_id, **values))
    db.flush()
    return bool(found)


def gone(row: ExpiredArtifact) -> Expired:
    """Why a file's bytes are not here any more."""
    return Expired(
        f"{row.filename!r} expired on {day(row.expired_at)}. Its SHA-256, {row.sha256}, and the report of "
        f"{row.job_id} are kept; a retry of that job makes it again."
    )
