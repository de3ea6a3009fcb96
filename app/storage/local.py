"""Objects as files in a folder: temporary file, fsync, rename, fsync of the folder.

What is being written lies in one folder until it is whole: who was killed while writing leaves it there.
A part grows under its own key, which nobody looks up before a row names it.
"""

import hashlib
import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from app.storage.base import ABANDONED_S, Received, StoreUnavailable

SYNC_BYTES = 64 * 1024 * 1024
UNFINISHED = "unfinished"


class LocalStorage:
    """A folder of objects, spread over 256 subfolders."""

    parts_are_objects = True

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @contextmanager
    def create(self) -> Iterator["LocalWriter"]:
        """Begin a new object."""
        writer = LocalWriter(self.root, secrets.token_hex(16))
        try:
            yield writer
        finally:
            writer.close()

    @contextmanager
    def extend(self, key: str, size: int) -> Iterator["LocalPart"]:
        """Go on with a part after its first `size` bytes."""
        path = self._path(key)
        _make_folder(path.parent)
        with path.open("r+b" if size else "wb", buffering=0) as file:
            file.truncate(size)
            file.seek(size)
            _sync_shelf(path.parent)
            yield LocalPart(file)

    def open(self, key: str) -> BinaryIO:
        """Read an object.

        Raises:
            StoreUnavailable: The subfolder is not there, though no object takes it along: nothing is mounted.
        """
        path = self._path(key)
        try:
            return path.open("rb")
        except FileNotFoundError as error:
            if path.parent.is_dir():
                raise
            raise StoreUnavailable(f"{path.parent} is not there: is the store mounted?") from error

    def link(self, key: str, disposition: str, media_type: str) -> None:
        """None: bytes come from here alone."""

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._path(key).unlink(missing_ok=True)

    def older(self, shelf: int, seconds: float) -> list[str]:
        """Keys of files in one subfolder that were not written to for so long."""
        before = time.time() - seconds
        return [path.name for path in (self.root / f"{shelf:02x}").glob("*") if _written(path) < before]

    def tidy(self) -> None:
        """Remove what was begun and not written to for a day."""
        for path in (self.root / UNFINISHED).glob(".*.part"):
            with suppress(FileNotFoundError):  # it was finished or removed just now
                if _written(path) < time.time() - ABANDONED_S:
                    path.unlink()

    def close(self) -> None:
        """No connections are kept."""

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / key


class LocalWriter:
    """One object being written."""

    def __init__(self, root: Path, key: str) -> None:
        self.size = self._synced = 0
        self._key = key
        self._path = root / key[:2] / key
        _make_folder(self._path.parent)
        self._temporary = root / UNFINISHED / f".{key}.part"
        self._temporary.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._temporary.open("wb", buffering=0)
        self._hash = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Append, hash and count."""
        _write_all(self._file, chunk)
        self._hash.update(chunk)
        self.size += len(chunk)
        if self.size - self._synced >= SYNC_BYTES:  # the disk works while more arrives, not only at the end
            os.fdatasync(self._file.fileno())
            self._synced = self.size

    def finish(self) -> Received:
        """Make the bytes durable; the object appears whole or not at all."""
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.rename(self._path)
        _sync_shelf(self._path.parent)
        return Received(self._hash.hexdigest(), self._key, self.size)

    def close(self) -> None:
        """Remove what was not finished."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class LocalPart:
    """A part that grows."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def write(self, chunk: bytes) -> None:
        """Append."""
        _write_all(self._file, chunk)

    def sync(self) -> None:
        """Make it durable."""
        os.fdatasync(self._file.fileno())


def _written(path: Path) -> float:
    """When a file was last written to; infinity when it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _write_all(file: FileIO, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def _make_folder(folder: Path) -> None:
    """What lies in it is durable only if its own name is, and so on up to the first folder that was there."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_shelf(shelf: Path) -> None:
    """Its own name too: whoever else is just making it may not have come so far."""
    _sync_folder(shelf)
    _sync_folder(shelf.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
