"""Objects as rows of the database: hosts need no other place in common.

An object's chunks are written one transaction each, so neither memory nor a transaction grows with it. Its
row becomes visible with the last of them. A part is visible from its beginning: nobody looks it up before a
row names it. What is not visible is being written or deleted; who was killed meanwhile leaves it to `tidy`.
"""

import hashlib
import io
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

import psycopg
from sqlalchemy import event

from app.db.queries import objects
from app.db.session import Database
from app.storage.base import ABANDONED_S, CHUNK, Received
from app.storage.pieces import PiecePart, PieceReader, Pieces


class DatabaseStorage:
    """Objects in chunks of 1 MiB."""

    parts_are_objects = True

    def __init__(self, database: Database) -> None:
        """Its connections are its own: who holds one for a request must not wait here for a second."""
        self._database = database
        if database.engine.dialect.name == "postgresql":
            event.listen(database.engine, "before_cursor_execute", _take_bytes_as_they_are)

    @contextmanager
    def create(self) -> Iterator["DatabaseWriter"]:
        """Begin a new object."""
        writer = DatabaseWriter(self._database, secrets.token_hex(16))
        try:
            yield writer
        finally:
            if not writer.finished:
                self.delete(writer.key)

    @contextmanager
    def extend(self, key: str, size: int) -> Iterator[PiecePart]:
        """Go on with a part after its first `size` bytes."""
        with self._database.writing() as db:
            if not objects.touch_object(db, key):
                if size:
                    raise FileNotFoundError(key)
                objects.begin_object(db, key, visible=True)
            objects.cut_object(db, key, size)
        yield PiecePart(CHUNK, size, partial(self._append, key))

    def open(self, key: str) -> BinaryIO:
        """Read an object."""
        with self._database.reading() as db:
            if not objects.is_visible(db, key):
                raise FileNotFoundError(key)
        return io.BufferedReader(PieceReader(partial(self._chunk, key)))

    def link(self, key: str, disposition: str, media_type: str) -> None:
        """None: bytes come from here alone."""

    def delete(self, key: str) -> None:
        """Remove an object."""
        with self._database.writing() as db:
            objects.hide_object(db, key)
            erased = objects.erase_chunks(db, key)
        while not erased:
            with self._database.writing() as db:
                erased = objects.erase_chunks(db, key)

    def older(self, shelf: int, seconds: float) -> list[str]:
        """Keys of objects and parts that were not written to for so long."""
        first, end = f"{shelf:02x}", f"{shelf:02x}g"  # no digit of a key comes after g
        with self._database.reading() as db:
            return list(objects.old_objects(db, first, end, seconds))

    def tidy(self) -> None:
        """Remove what nobody can open and nobody wrote to for a day."""
        with self._database.reading() as db:
            abandoned = objects.abandoned_objects(db, ABANDONED_S)
        for key in abandoned:
            self.delete(key)

    def close(self) -> None:
        """Close every connection."""
        self._database.dispose()

    def _append(self, key: str, start: int, piece: bytes) -> None:
        with self._database.writing() as db:
            if not objects.touch_object(db, key):
                raise FileNotFoundError(key)
            objects.add_chunk(db, key, start, piece)

    def _chunk(self, key: str, position: int) -> tuple[int, bytes]:
        with self._database.reading() as db:
            return objects.chunk_at(db, key, position)


def _take_bytes_as_they_are(_connection: object, cursor: psycopg.Cursor[Any], *_: object) -> None:
    """As text each byte would come as two digits, which costs both sides most of their time."""
    cursor.format = psycopg.pq.Format.BINARY


class DatabaseWriter:
    """One object being written."""

    def __init__(self, database: Database, key: str) -> None:
        self.key, self.size, self.finished = key, 0, False
        self._database, self._stored = database, 0
        self._pieces = Pieces(CHUNK)
        self._hash = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Append, hash and count."""
        self._hash.update(chunk)
        self.size += len(chunk)
        for piece in self._pieces.add(chunk):
            self._store(piece, last=False)

    def finish(self) -> Received:
        """Store the rest and let the object be seen, in one transaction."""
        self._store(self._pieces.rest(), last=True)
        self.finished = True
        return Received(self._hash.hexdigest(), self.key, self.size)

    def _store(self, piece: bytes, *, last: bool) -> None:
        with self._database.writing() as db:
            if self._stored == 0:
                objects.begin_object(db, self.key, visible=last)
            elif not objects.touch_object(db, self.key, show=last):
                raise FileNotFoundError(self.key)
            if piece:
                objects.add_chunk(db, self.key, self._stored, piece)
        self._stored += len(piece)
