"""Resumable uploads: claimed by one writer at a time, counted as they become durable, finished as a blob.

A writer holds a lease in the row. It is renewed by bytes that arrive, so a writer that died or stalls loses
it, and `Upload.writer`, raised by each claim, fences off what it may still do. Who takes over from a writer
that did not say goodbye begins a part of its own: nobody ever writes where somebody else might.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from sqlalchemy.orm import Session

from app.db import queries
from app.db.base import MICROSECONDS
from app.db.models import Upload, UploadPart
from app.db.queries import uploads
from app.db.session import after_commit
from app.domain.errors import DigestMismatch, OffsetMismatch, Problem, TooLarge, UploadGone, UploadLocked
from app.domain.job import check_transition
from app.services import blobs, events
from app.storage import Received, Storage
from app.storage.base import limited

LEASE_SECONDS = 15


class Superseded(UploadLocked):
    """Another request took this upload over; send what is missing with a new one."""


@dataclass(frozen=True)
class Announced:
    """What a client says of an upload before it sends any byte; `metadata` is Upload-Metadata as it came."""

    length: int
    filename: str | None = None
    sha256: str | None = None
    metadata: str = ""


@dataclass(frozen=True)
class Part:
    """An object of the store and how many of its bytes count."""

    key: str
    size: int


@dataclass(frozen=True)
class Claim:
    """An upload that this request may append to; `parts` are complete but for the last, which grows."""

    upload_id: str
    project_id: str
    writer: int
    size: int
    length: int
    expected: str | None
    parts: tuple[Part, ...]

    def grown(self, size: int) -> tuple[Part, ...]:
        """The parts once the upload has this many bytes."""
        *others, last = self.parts
        return (*others, Part(last.key, last.size + size - self.size))


def create(db: Session, project_id: str, announced: Announced, seconds: int) -> Upload:
    """Begin an upload; bytes that the project has already need not be sent."""
    here = queries.project_blob(db, project_id, announced.sha256, keep=True) if announced.sha256 else None
    upload = Upload(
        project_id=project_id,
        length=announced.length,
        filename=announced.filename,
        expected=announced.sha256,
        metadata_text=announced.metadata,
        expires_at=queries.now(db) + seconds * MICROSECONDS,
    )
    db.add(upload)
    db.flush()
    events.record(db, project_id, upload.id, "upload.created", state=upload.state)
    if here and here.size == announced.length:
        queries.grant_blob(db, project_id, here.sha256, seconds)
        _ready(db, upload, here.sha256)
    return upload


def claim(
    db: Session, storage: Storage, project_id: str, upload_id: str, offset: int, coming: int = 0
) -> Claim:
    """Take the upload's lease to append at `offset`; `coming` bytes are announced, if their number is known.

    Raises:
        NotFound: This project has no such upload.
        UploadGone: It expired or failed.
        UploadLocked: Somebody else is sending.
        OffsetMismatch: The upload goes on elsewhere, or is complete.
        TooLarge: More bytes come than are missing.
    """
    row = queries.lock_owned(db, Upload, project_id, upload_id)
    refuse_gone(row)
    if row.lease_until is not None and row.lease_until > queries.now(db):
        raise UploadLocked(
            f"Another request is sending {upload_id}; wait for it to end, then ask HEAD where to go on."
        )
    if offset != row.size or row.state != "receiving":
        raise OffsetMismatch(f"Upload-Offset is {offset}; {upload_id} has {row.size} of {row.length} bytes.")
    if offset + coming > row.length:
        raise TooLarge(f"{coming} bytes come from {offset} on; {upload_id} ends at {row.length}.")
    if row.lease_until is not None or not row.parts:
        _begin_part(db, storage, row)
    row.writer += 1
    row.lease_until = queries.now(db) + LEASE_SECONDS * MICROSECONDS
    db.flush()
    starts = [part.start for part in row.parts] + [row.size]
    sizes = [end - start for start, end in pairwise(starts)]
    parts = tuple(Part(part.key, size) for part, size in zip(row.parts, sizes, strict=True))
    return Claim(row.id, project_id, row.writer, row.size, row.length, row.expected, parts)


def _begin_part(db: Session, storage: Storage, row: Upload) -> None:
    """Bytes go on in an object that no earlier writer knows."""
    key = secrets.token_hex(16)
    if row.parts and row.parts[-1].start == row.size:
        after_commit(db, storage.delete, row.parts[-1].key)
        row.parts[-1].key = key
    else:
        row.parts.append(UploadPart(start=row.size, key=key))


def advance(db: Session, claim: Claim, size: int, keep_seconds: int) -> None:
    """So many bytes are durable, and more will come.

    Raises:
        Superseded: The upload is not ours any more.
    """
    _advance(db, claim, size, keep_seconds, LEASE_SECONDS)


def release(db: Session, claim: Claim, size: int, keep_seconds: int) -> None:
    """So many bytes are durable, and nobody writes to the last part any more.

    Raises:
        Superseded: The upload is not ours any more.
    """
    _advance(db, claim, size, keep_seconds, None)


def _advance(db: Session, claim: Claim, size: int, keep_seconds: int, lease: float | None) -> None:
    if not uploads.advance_upload(
        db, claim.upload_id, claim.writer, size, seconds=lease, keep_seconds=keep_seconds
    ):
        raise Superseded


def assembled(
    storage: Storage, parts: tuple[Part, ...], digest: "hashlib._Hash | None", tick: Callable[[], None]
) -> Received:
    """One object out of an upload's parts. `digest` is of all bytes, if known; `tick` is called often."""
    if len(parts) > 1 or not storage.parts_are_objects:
        with storage.create() as writer:
            for chunk in _content(storage, parts):
                writer.write(chunk)
                tick()
            return writer.finish()
    (only,) = parts
    if digest is None:
        digest = hashlib.sha256()
        for chunk in _content(storage, parts):
            digest.update(chunk)
            tick()
    return Received(digest.hexdigest(), only.key, only.size)


def _content(storage: Storage, parts: tuple[Part, ...]) -> Iterator[bytes]:
    for part in parts:
        with storage.open(part.key) as file:
            yield from limited(file, part.size)


def complete(db: Session, storage: Storage, claim: Claim, received: Received, keep_seconds: int) -> Upload:
    """All bytes are durable: the upload becomes a blob, or fails when it is not what was announced.

    Raises:
        Superseded: The upload is not ours any more.
    """
    advance(db, claim, claim.length, keep_seconds)
    row = queries.lock_owned(db, Upload, claim.project_id, claim.upload_id)
    row.lease_until = None
    if claim.expected not in {None, received.sha256}:
        detail = f"The {received.size} received bytes hash to {received.sha256}, not to {claim.expected}."
        after_commit(db, storage.delete, received.key)
        _end(db, storage, row, "failed", Problem.of(DigestMismatch(detail)))
        return row
    blobs.keep(db, storage, claim.project_id, received, keep_seconds)
    _drop_parts(db, storage, row, but=received.key)
    _ready(db, row, received.sha256)
    return row


def expire(db: Session, storage: Storage, upload_id: str) -> None:
    """Nobody went on with it in time: its bytes go."""
    row = db.get_one(Upload, upload_id, with_for_update=True)
    if row.state == "receiving" and row.expires_at <= queries.now(db):
        _end(db, storage, row, "expired", Problem("upload_gone", "The upload was not finished in time."))


def terminate(db: Session, storage: Storage, project_id: str, upload_id: str) -> None:
    """Forget an upload and what it has sent; a blob that it became stays.

    Raises:
        NotFound: This project has no such upload.
    """
    row = queries.lock_owned(db, Upload, project_id, upload_id)
    events.record(db, project_id, row.id, "upload.deleted", state=row.state)
    _drop_parts(db, storage, row)
    db.delete(row)
    db.flush()


def refuse_gone(row: Upload) -> None:
    """Raises UploadGone when the upload expired or failed."""
    if row.problem:
        raise UploadGone(f"{row.id} is {row.state}: {row.problem.detail} Begin a new upload.")


def refuse_failed(row: Upload) -> None:
    """Raises DigestMismatch when the bytes that just came to their end are not what was announced."""
    if row.state == "failed" and row.problem:
        raise DigestMismatch(row.problem.detail)


def _ready(db: Session, row: Upload, sha256: str) -> None:
    check_transition("upload", row.state, "ready")
    row.state, row.size, row.sha256 = "ready", row.length, sha256
    events.record(db, row.project_id, row.id, "upload.ready", state="ready", sha256=sha256)


def _end(db: Session, storage: Storage, row: Upload, state: str, problem: Problem) -> None:
    check_transition("upload", row.state, state)
    row.state, row.problem = state, problem
    _drop_parts(db, storage, row)
    events.record(db, row.project_id, row.id, f"upload.{state}", state=state, code=problem.code)


def _drop_parts(db: Session, storage: Storage, row: Upload, but: str | None = None) -> None:
    for part in row.parts:
        if part.key != but:
            after_commit(db, storage.delete, part.key)
    row.parts = []
    db.flush()
