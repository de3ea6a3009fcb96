"""What a blob store can do."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

CHUNK = 1024 * 1024
SHELVES = 256
ABANDONED_S = 24 * 3600


class StoreUnavailable(OSError):
    """The store does not answer, or not as it should."""


@dataclass(frozen=True)
class Received:
    """Bytes that are durable in the store but belong to no row yet."""

    sha256: str
    key: str
    size: int


class Writer(Protocol):
    """One object being written. Leaving the context without `finish` removes every trace of it."""

    size: int

    def write(self, chunk: bytes) -> None:
        """Append, hash and count."""

    def finish(self) -> Received:
        """Make the bytes durable under a random key."""


class Part(Protocol):
    """An object that grows, known to its one writer. Only what `sync` made durable may be counted."""

    def write(self, chunk: bytes) -> None:
        """Append."""

    def sync(self) -> None:
        """Make everything that was appended durable."""


class Storage(Protocol):
    """A store of objects. All but parts appear whole or not at all and never change.

    Raises, from every method: OSError or SQLAlchemyError when the store is away.
    """

    parts_are_objects: bool
    """Whether a part can stay as the object that it grew to."""

    def create(self) -> AbstractContextManager[Writer]:
        """Begin a new object."""

    def extend(self, key: str, size: int) -> AbstractContextManager[Part]:
        """Go on after the first `size` bytes of a part, begun here when there are none; cut the rest."""

    def open(self, key: str) -> BinaryIO:
        """Read an object from its beginning; seekable.

        Raises:
            FileNotFoundError: There is none.
        """

    def link(self, key: str, disposition: str, media_type: str) -> str | None:
        """Where anybody can download an object for a few minutes, with these two headers; None: nowhere."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is no error."""

    def older(self, shelf: int, seconds: float) -> list[str]:
        """Keys of objects and parts on one of the 256 shelves that were not written to for so long."""

    def tidy(self) -> None:
        """Remove what writers that were killed have left behind."""

    def close(self) -> None:
        """Give back every connection."""


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file in pieces of 1 MiB."""
    while chunk := file.read(CHUNK):
        yield chunk


def limited(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The next `size` bytes of a file in pieces of 1 MiB.

    Raises:
        OSError: The file ends before; what a row counts must be there.
    """
    while size:
        chunk = file.read(min(CHUNK, size))
        if not chunk:
            message = f"an object ends {size} bytes too early"
            raise OSError(message)
        yield chunk
        size -= len(chunk)


def add(storage: Storage, pieces: Iterable[bytes]) -> Received:
    """Copy these bytes into the store."""
    with storage.create() as writer:
        for piece in pieces:
            writer.write(piece)
        return writer.finish()
