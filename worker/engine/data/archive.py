"""Files inside a zip or a tar, read one at a time and never written to disk by name."""

import bz2
import errno
import gzip
import io
import lzma
import mmap
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from app.domain.errors import Refused

MAX_ENTRIES = 200_000
MAX_UNPACKED_BYTES = 32 * 2**30
MAX_ENTRY_BYTES = 256 * 2**20
MAX_RATIO = 100
RATIO_MATTERS_ABOVE = 10 * 2**20  # a small file of one colour may shrink more than this, and does no harm
CHUNK = 2**20
ENCRYPTED = 1  # the bit in a zip member's flags
BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    OSError,
)
# What tarfile makes of sizes beyond what the file has, or any can have, and of headers without end.
LYING = (ValueError, OverflowError, MemoryError, RecursionError)
SHOWN = 200  # characters of what an error says
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@dataclass(frozen=True)
class Entry:
    """One regular file of an archive."""

    name: str  # with forward slashes
    size: int
    read: Callable[[int], bytes]  # its first n bytes; -1 for all
    open: Callable[[], IO[bytes]]


def open_zip(path: Path, entry_bytes: int = MAX_ENTRY_BYTES) -> list[Entry]:
    """The files of a zip, none of more than `entry_bytes`.

    Raises:
        Refused: `unsafe_archive`, `archive_too_large` or `broken_archive`.
    """
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise Refused("broken_archive", f"The zip cannot be read: {error}. Upload it again.") from error
    members = zip_members(archive)
    for member in members:
        _check_zip_member(member)
    entries = [
        Entry(_safe(m.filename), m.file_size, partial(_read_zip, archive, m), partial(archive.open, m))
        for m in members
    ]
    return _within_limits(entries, path.stat().st_size, entry_bytes)


def zip_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """What a zip holds, without its folders.

    Raises:
        Refused: `unsafe_archive`, a file has no name.
    """
    members = archive.infolist()
    if not all(member.filename for member in members):
        raise Refused("unsafe_archive", "A file in the zip has no name; pack it again.")
    return [member for member in members if not member.is_dir()]


def open_tar(path: Path, entry_bytes: int = MAX_ENTRY_BYTES) -> list[Entry]:
    """The files of a tar, compressed or not, none of more than `entry_bytes`.

    Raises:
        Refused: `unsafe_archive`, `archive_too_large` or `broken_archive`.
    """
    entries = []
    try:
        content = _plain_tar(path)
        with tarfile.open(fileobj=content, mode="r:") as archive:
            for member in _regular_files(archive):
                read = partial(read_at, content, member.offset_data, member.size)
                entries.append(Entry(_safe(member.name), member.size, read, partial(open_at, read)))
    except (*BROKEN, *LYING) as error:
        raise broken(error, f"The tar cannot be read: {said(error)}. Upload it again.") from error
    return _within_limits(entries, path.stat().st_size, entry_bytes)


def is_tar(path: Path) -> bool:
    """Whether the content is a tar, also inside gzip, bzip2 or xz; one that lies is told by `open_tar`."""
    try:
        with tarfile.open(path, "r:*"):
            return True
    except BROKEN:
        return False
    except LYING:
        return True


def said(error: BaseException) -> str:
    """What an error says, in one line that is not too long; its kind where it says nothing."""
    return " ".join(str(error).split())[:SHOWN] or type(error).__name__


def broken(error: Exception, detail: str) -> Refused:
    """The refusal of an archive that cannot be unpacked.

    Raises:
        OSError: It was the disk that could not take what was unpacked; no archive is rejected for that.
    """
    if isinstance(error, OSError) and error.errno in DISK:
        raise error
    return Refused("broken_archive", detail)


def _plain_tar(path: Path) -> mmap.mmap:
    """The tar's bytes, mapped; a compressed one is unpacked once, since reading at random needs positions."""
    with path.open("rb") as file:
        opener = _opener(file.read(6))
        if opener is None:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with tempfile.TemporaryFile() as spill:
        _unpack(path, opener, spill)
        return mmap.mmap(spill.fileno(), 0, access=mmap.ACCESS_READ)


def _unpack(path: Path, opener: Callable[[Path], IO[bytes]], spill: IO[bytes]) -> None:
    packed = path.stat().st_size
    try:
        with opener(path) as source:
            while chunk := source.read(CHUNK):
                spill.write(chunk)
                check_unpacked(spill.tell(), packed)
    except BROKEN as error:
        raise broken(error, f"The tar cannot be unpacked: {error}. Upload it again.") from error
    spill.flush()


def _opener(magic: bytes) -> Callable[[Path], IO[bytes]] | None:
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open  # type: ignore[return-value]  # GzipFile is a file in all but name
    if magic.startswith(b"BZh"):
        return bz2.open
    return lzma.open if magic.startswith(b"\xfd7zXZ") else None


def _regular_files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(archive):
        if count > MAX_ENTRIES:
            raise _too_many(count)
        if member.isdir():
            _safe(member.name)
        elif member.isreg() and not member.issparse():
            yield member
        else:
            detail = (
                f"{member.name!r} is a link, a device or a sparse file; an archive may hold plain files only."
            )
            raise Refused("unsafe_archive", detail)


def _check_zip_member(member: zipfile.ZipInfo) -> None:
    if stat.S_ISLNK(member.external_attr >> 16):
        detail = f"{member.filename!r} is a symbolic link; put the file itself into the archive."
        raise Refused("unsafe_archive", detail)
    if member.flag_bits & ENCRYPTED:
        raise Refused("unsafe_archive", f"{member.filename!r} is encrypted; send the zip without a password.")
    if member.file_size > MAX_RATIO * max(member.compress_size, 1) and member.file_size > RATIO_MATTERS_ABOVE:
        raise _bomb(f"{member.filename!r}", member.file_size, member.compress_size)


def _within_limits(entries: list[Entry], packed: int, entry_bytes: int) -> list[Entry]:
    if len(entries) > MAX_ENTRIES:
        raise _too_many(len(entries))
    names: set[str] = set()
    for entry in entries:
        if entry.size > entry_bytes:
            detail = f"{entry.name!r} unpacks to {entry.size} bytes; the limit for one file is {entry_bytes}."
            raise Refused("archive_too_large", detail)
        if entry.name in names:
            raise Refused("unsafe_archive", f"{entry.name!r} is in the archive twice; remove one of the two.")
        names.add(entry.name)
    check_unpacked(sum(entry.size for entry in entries), packed)
    return entries


def check_unpacked(unpacked: int, packed: int) -> None:
    """Refuse what unpacks to too much.

    Raises:
        Refused: `archive_too_large`.
    """
    if unpacked > MAX_UNPACKED_BYTES:
        detail = (
            f"The archive unpacks to over {MAX_UNPACKED_BYTES} bytes, which is the limit; send fewer samples."
        )
        raise Refused("archive_too_large", detail)
    if unpacked > MAX_RATIO * packed and unpacked > RATIO_MATTERS_ABOVE:
        raise _bomb("The archive", unpacked, packed)


def _bomb(what: str, unpacked: int, packed: int) -> Refused:
    detail = (
        f"{what} unpacks from {packed} to {unpacked} bytes; the limit is {MAX_RATIO} times. Send it as it is."
    )
    return Refused("archive_too_large", detail)


def _too_many(count: int) -> Refused:
    return Refused("archive_too_large", f"The archive holds {count} files; the limit is {MAX_ENTRIES}.")


def _safe(name: str) -> str:
    """The name with forward slashes; nothing that points outside the archive passes."""
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or parts[0].endswith(":") or ".." in parts or "\0" in name:
        detail = f"{name!r} points outside the archive; names must be relative and without '..'."
        raise Refused("unsafe_archive", detail)
    return "/".join(part for part in parts if part not in {"", "."})


def _read_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo, count: int) -> bytes:
    with archive.open(member) as file:
        return file.read(count)


def open_at(read: Callable[[int], bytes]) -> IO[bytes]:
    """An entry's bytes as a file."""
    return io.BytesIO(read(-1))


def read_at(content: mmap.mmap, offset: int, size: int, count: int) -> bytes:
    """The first `count` of `size` bytes at a place; -1 for all."""
    return content[offset : offset + (size if count < 0 else min(size, count))]
