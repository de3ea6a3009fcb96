"""One request's bytes on their way into a resumable upload."""

import hashlib
import time
from contextlib import ExitStack, suppress

import anyio
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from app.api.body import pump
from app.api.deps import App
from app.db.models import Upload
from app.domain.errors import ChecksumMismatch, DomainError, TooLarge
from app.services import quotas, uploads
from app.services.uploads import Claim, Superseded

SYNC_BYTES = 64 * 1024 * 1024
SYNC_SECONDS = uploads.LEASE_SECONDS / 3


async def take_in(request: Request, service: App, claim: Claim, checksum: bytes | None = None) -> Upload:
    """Append the request's body; whatever interrupts it, what is durable by then counts.

    Raises:
        ChecksumMismatch: The body has not this SHA-256; nothing of it counts.
        TooLarge: The body is longer than what is missing.
        Superseded: Another request took the upload over.
    """
    incoming = await run_in_threadpool(_Incoming, service, claim, checksum)
    try:
        await pump(request, incoming.write)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(incoming.interrupt)
        raise
    return await run_in_threadpool(incoming.finish)


class _Incoming:
    """Appends, makes durable, counts. With a checksum nothing counts before all of it was compared."""

    def __init__(self, service: App, claim: Claim, checksum: bytes | None) -> None:
        self._service, self._claim, self._checksum = service, claim, checksum
        self._size = self._counted = self._hashed = claim.size
        self._digest = service.digests.take(claim.upload_id, claim.size)
        self._body = hashlib.sha256()
        self._looked = time.monotonic()
        self._open = ExitStack()
        last = claim.parts[-1]
        self._part = self._open.enter_context(service.storage.extend(last.key, last.size))

    def write(self, chunk: bytes) -> None:
        """Append a piece of the body."""
        if self._size + len(chunk) > self._claim.length:
            message = f"The body goes on after byte {self._claim.length}, the announced Upload-Length."
            raise TooLarge(message)
        self._part.write(chunk)
        if self._digest:
            self._digest.update(chunk)
            self._hashed += len(chunk)
        if self._checksum:
            self._body.update(chunk)
        self._size += len(chunk)
        if self._is_due() and self._size < self._claim.length:
            self._count(last=False)

    def interrupt(self) -> None:
        """The body ended early, or something else did."""
        if self._size == self._claim.length:
            self._size = self._counted  # an upload has all its bytes only when it is ready
        with self._open, suppress(Superseded):
            self._count(last=True)

    def finish(self) -> Upload:
        """The whole body is here."""
        with self._open:
            if self._checksum and self._body.digest() != self._checksum:
                self._count(last=True)
                sent = self._size - self._claim.size
                message = f"The {sent} sent bytes have another SHA-256 than Upload-Checksum."
                raise ChecksumMismatch(message)
            self._checksum = None
            if self._size < self._claim.length:
                return self._count(last=True)
            self._part.sync()
        return self._complete()

    def _count(self, *, last: bool) -> Upload:
        size = self._claim.size if self._checksum else self._size
        if size > self._counted:
            self._part.sync()
        count = uploads.release if last else uploads.advance
        keep_seconds = self._service.settings.blob_grace_s
        with self._service.database.writing() as db:
            count(db, self._claim, size, keep_seconds)
            row = db.get_one(Upload, self._claim.upload_id)
        self._counted, self._looked = size, time.monotonic()
        if last and self._digest and size == self._hashed:
            self._service.digests.put(self._claim.upload_id, size, self._digest)
        return row

    def _complete(self) -> Upload:
        claim, storage = self._claim, self._service.storage
        parts = claim.grown(claim.length)
        received = uploads.assembled(storage, parts, self._digest, self._keep_lease)
        try:
            with (
                self._service.database.writing() as db,
                quotas.storing(db, claim.project_id, self._service.settings.quotas),
            ):
                return uploads.complete(db, storage, claim, received, self._service.settings.blob_grace_s)
        except DomainError:
            if received.key not in {part.key for part in parts}:
                storage.delete(received.key)
            raise

    def _is_due(self) -> bool:
        """Whether to count; with a checksum that only renews the lease, so bytes are no reason."""
        much = not self._checksum and self._size - self._counted >= SYNC_BYTES
        return much or self._is_time()

    def _is_time(self) -> bool:
        return time.monotonic() - self._looked >= SYNC_SECONDS

    def _keep_lease(self) -> None:
        if self._is_time():
            with self._service.database.writing() as db:
                uploads.advance(db, self._claim, self._counted, self._service.settings.blob_grace_s)
            self._looked = time.monotonic()
