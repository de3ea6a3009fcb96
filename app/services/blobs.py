"""Bytes of a project: recorded once, shared by hash, never across projects without being sent."""

from collections.abc import Iterable

from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Blob
from app.db.queries import blobs as statements
from app.db.session import after_commit
from app.domain.errors import BlobDamaged, EmptyFile, FieldError, InvalidInput
from app.storage import Received, Storage

# Of what was rejected and may be tried again; from the rejection on, which may come days after the upload.
# It is not `blob_grace_s`: what ends steps (`outcomes`) knows no settings, and a day is what is promised.
AGAIN_SECONDS = 24 * 3600


def keep(db: Session, storage: Storage, project_id: str, received: Received, seconds: int) -> Blob:
    """Record received bytes and let the project refer to them; bytes the store has already are dropped.

    Raises:
        EmptyFile: There are none.
    """
    if received.size == 0:
        raise EmptyFile
    if queries.insert_blob(db, received.sha256, received.key, received.size) != received.key:
        after_commit(db, storage.delete, received.key)
    queries.grant_blob(db, project_id, received.sha256, seconds)
    return queries.blob(db, received.sha256)


def keep_all(
    db: Session, storage: Storage, project_id: str, received: Iterable[Received], seconds: int
) -> dict[str, Blob]:
    """Keep several, by the keys under which they came.

    Their rows are locked in the order of their hashes, as everywhere: two who send the same files in
    opposite order would wait for each other.
    """
    ordered = sorted(received, key=lambda one: one.sha256)
    return {one.key: keep(db, storage, project_id, one, seconds) for one in ordered}


def renewed(db: Session, project_id: str, sha256: str, seconds: int) -> Blob | None:
    """A blob that the project has, which it now may refer to for longer; None when it has to be sent."""
    found = queries.project_blob(db, project_id, sha256, keep=True)
    if found:
        queries.grant_blob(db, project_id, sha256, seconds)
    return found


def referable(db: Session, project_id: str, sha256: str, pointer: str) -> Blob:
    """The blob behind a hash that a request names.

    Raises:
        InvalidInput: This project has not sent these bytes.
    """
    found = queries.project_blob(db, project_id, sha256, keep=True)
    if found is None:
        detail = f"no blob {sha256} in this project; send it first with PUT /v1/blobs/{sha256}"
        raise InvalidInput("A file is not here yet.", errors=(FieldError(pointer, detail),))
    return found


def whole(db: Session, sha256: str) -> Blob:
    """A blob that some row refers to, to be read.

    Raises:
        BlobDamaged: Its bytes in the store are not what they were.
    """
    found = queries.blob(db, sha256)
    if found.damaged_at is not None:
        raise BlobDamaged(
            f"The bytes of {sha256} are damaged in the store; sending them again, "
            f"with PUT /v1/blobs/{sha256} or as a new upload, repairs them."
        )
    return found


def drop(db: Session, storage: Storage, project_id: str, sha256: str) -> None:
    """Remove bytes that nothing in the project refers to; from the store too when nobody else has them."""
    statements.lock_blob(db, sha256)  # before counting: whoever is about to refer to them is counted
    if queries.blob_references(db, project_id, sha256):
        return
    key = queries.forget_blob(db, project_id, sha256)
    if key:
        after_commit(db, storage.delete, key)


def let_go(db: Session, storage: Storage, project_id: str, digests: Iterable[str], *, again: bool) -> None:
    """Remove what a rejected upload had; where trying `again` may help, it can be named for another day."""
    for sha256 in sorted(set(digests)):
        if again:
            renewed(db, project_id, sha256, AGAIN_SECONDS)
        else:
            drop(db, storage, project_id, sha256)


def collect(db: Session, storage: Storage, project_id: str, sha256: str) -> None:
    """Remove bytes that a project sent and did not use in time; renewed meanwhile, they stay."""
    statements.lock_blob(db, sha256)
    if statements.has_expired(db, project_id, sha256):
        drop(db, storage, project_id, sha256)
