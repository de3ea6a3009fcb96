"""Objects in a bucket of any S3-compatible store.

An object is sent in pieces of 8 MiB (multipart upload), and the store shows it when it is complete. A part
that grows is a row of objects, each named by the byte at which it begins.
"""

import hashlib
import io
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import BinaryIO

from app.storage.base import ABANDONED_S, Received
from app.storage.bucket import Bucket, Extent
from app.storage.pieces import PiecePart, PieceReader, Pieces

PIECE = 8 * 1024 * 1024  # bytes; a store takes 10,000 pieces of an object
WINDOW = 4 * 1024 * 1024  # bytes read at once
TIDY_S = 3600  # every look costs a request


class S3Storage:
    """The objects below a prefix of a bucket."""

    parts_are_objects = False

    def __init__(self, url: str, *, links: bool) -> None:
        """`url` is `s3://bucket/prefix`; without `links`, downloads pass through this service."""
        self._bucket, self._links = Bucket.at(url), links
        self._tidied: float | None = None

    @contextmanager
    def create(self) -> Iterator["S3Writer"]:
        """Begin a new object."""
        writer = S3Writer(self._bucket, secrets.token_hex(16))
        try:
            yield writer
        finally:
            writer.close()

    @contextmanager
    def extend(self, key: str, size: int) -> Iterator[PiecePart]:
        """Go on with a part after its first `size` bytes."""
        extents = self._bucket.extents(f"{key}.")
        if sum(extent.size for extent in extents) < size:
            raise FileNotFoundError(key)
        for extent in extents:
            if extent.start >= size:
                self._bucket.delete(extent.name)
            elif extent.start + extent.size > size:
                first = self._bucket.read(extent.name, 0, size - extent.start)
                self._bucket.put(extent.name, first)
        if size == 0:
            self._bucket.put(_piece_name(key, 0), b"")
        yield PiecePart(PIECE, size, partial(self._append, key))

    def open(self, key: str) -> BinaryIO:
        """Read an object."""
        extents = self._bucket.extents(key)
        if not extents:
            raise FileNotFoundError(key)
        return io.BufferedReader(PieceReader(partial(self._window, extents)))

    def link(self, key: str, disposition: str, media_type: str) -> str | None:
        """Where the bucket itself answers with the object."""
        return self._bucket.link(key, disposition, media_type) if self._links else None

    def delete(self, key: str) -> None:
        """Remove an object."""
        for extent in self._bucket.extents(key):
            self._bucket.delete(extent.name)

    def older(self, shelf: int, seconds: float) -> list[str]:
        """Keys of objects and parts that were not written to for so long."""
        written: dict[str, datetime] = {}
        for extent in self._bucket.extents(f"{shelf:02x}"):
            key = extent.name.partition(".")[0]
            written[key] = max(extent.written, written.get(key, extent.written))
        return [key for key, moment in written.items() if moment < _ago(seconds)]

    def tidy(self) -> None:
        """End multipart uploads that nobody has sent anything to for a day; looks once an hour."""
        if self._tidied is None or time.monotonic() - self._tidied >= TIDY_S:
            self._tidied = time.monotonic()
            self._bucket.end_uploads(_ago(ABANDONED_S))

    def close(self) -> None:
        """Close every connection."""
        self._bucket.client.close()

    def _append(self, key: str, start: int, piece: bytes) -> None:
        self._bucket.put(_piece_name(key, start), piece)

    def _window(self, extents: list[Extent], position: int) -> tuple[int, bytes]:
        for extent in extents:
            offset = position - extent.start
            if 0 <= offset < extent.size:
                return position, self._bucket.read(extent.name, offset, min(WINDOW, extent.size - offset))
        return position, b""


class S3Writer:
    """One object being written: at once when it is small, else as a multipart upload."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.size = 0
        self._bucket, self._key = bucket, key
        self._upload_id = ""
        self._tags: list[str] = []
        self._pieces = Pieces(PIECE)
        self._hash = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Append, hash and count."""
        self._hash.update(chunk)
        self.size += len(chunk)
        for piece in self._pieces.add(chunk):
            self._send(piece)

    def finish(self) -> Received:
        """Send the rest and let the store show the object."""
        rest = self._pieces.rest()
        if self._upload_id:
            if rest:
                self._send(rest)
            self._bucket.complete(self._key, self._upload_id, self._tags)
            self._upload_id = ""
        else:
            self._bucket.put(self._key, rest)
        return Received(self._hash.hexdigest(), self._key, self.size)

    def close(self) -> None:
        """Remove what was not finished."""
        if self._upload_id:
            self._bucket.end_upload(self._key, self._upload_id)

    def _send(self, piece: bytes) -> None:
        if not self._upload_id:
            self._upload_id = self._bucket.begin_upload(self._key)
        number = len(self._tags) + 1
        self._tags.append(self._bucket.send(self._key, self._upload_id, number, piece))


def _piece_name(key: str, start: int) -> str:
    return f"{key}.{start:020d}"


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)
