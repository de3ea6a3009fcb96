"""Arrays: npz (a key is an input's name, axis 0 is samples) and plain npy. Pickles are never read.

Members that are stored uncompressed are mapped where they lie; compressed ones are unpacked once into an
unnamed temporary file and mapped there, so memory does not grow with the dataset. Either file is mapped as a
whole: each mapping holds a descriptor, and ragged samples are an array each.
"""

import io
import mmap
import shutil
import tempfile
import tokenize
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from app.domain.errors import Refused
from worker.engine.data.archive import BROKEN, ENCRYPTED, MAX_RATIO, broken, said, zip_members
from worker.engine.data.arrays import LABELS, NUMERIC_KINDS, ArrayDataset, arrange
from worker.engine.data.dataset import Array

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000
LONGEST_HEAD = 16 + MAX_HEADER_BYTES  # magic, version, length and header
MAX_MEMBERS = 1_000_000
MAX_UNPACKED_BYTES = 32 * 2**30
RATIO_MATTERS_ABOVE = 256 * 2**20  # masks and zeros shrink a thousand times, and smaller ones do no harm
CHUNK = 2**20
PLAIN_NAME = "array"
FORMAT = "npz"
# What Python's own parser makes of a few bytes that are no literal; its stack is all that can run out.
NO_HEADER = (
    *(ValueError, EOFError, SyntaxError, TypeError, KeyError),
    *(tokenize.TokenError, RecursionError, MemoryError),
)
READ_HEADER = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}


def open_npz(path: Path) -> ArrayDataset:
    """Open an npz file.

    Raises:
        Refused: pickles, arrays of an unknown kind, sizes that lie, or arrays whose lengths differ.
    """
    try:
        with (
            zipfile.ZipFile(path) as archive,
            path.open("rb") as raw,
            tempfile.TemporaryFile() as spill,
        ):
            members = zip_members(archive)
            _check_sizes(members, path.stat().st_size)
            places = [_place(archive, m, raw, spill) for m in members]
            spill.flush()
            maps: dict[IO[bytes], mmap.mmap | bytes] = {file: _mapped(file) for file in (raw, spill)}
            arrays = {
                _name(m): _array(maps[file], start, m.file_size, m.filename)
                for m, (file, start) in zip(members, places, strict=True)
            }
    except BROKEN as error:
        raise broken(error, f"The npz cannot be unpacked: {error}. Save it again.") from error
    return arrange(arrays, FORMAT)


def open_npy(path: Path) -> ArrayDataset:
    """Open a plain npy file: one array without a name, whose axis 0 is samples."""
    with path.open("rb") as file:
        return arrange({PLAIN_NAME: _array(_mapped(file), 0, path.stat().st_size, path.name)}, FORMAT)


def _check_sizes(members: list[zipfile.ZipInfo], file_size: int) -> None:
    if len(members) > MAX_MEMBERS:
        detail = (
            f"The npz holds {len(members)} arrays; the limit is {MAX_MEMBERS}. Stack samples along axis 0."
        )
        raise Refused("archive_too_large", detail)
    unpacked = sum(m.file_size for m in members)
    if unpacked > MAX_UNPACKED_BYTES:
        detail = (
            f"The npz unpacks to {unpacked} bytes; the limit is {MAX_UNPACKED_BYTES}. Send fewer samples."
        )
        raise Refused("archive_too_large", detail)
    _check_ratio([m for m in members if m.compress_type != zipfile.ZIP_STORED], file_size)
    names = [_name(m) for m in members]
    if len(set(names)) < len(names):
        raise Refused(
            "unsafe_archive", "The npz holds two arrays of one name; write it again with numpy.savez."
        )


def _check_ratio(members: list[zipfile.ZipInfo], file_size: int) -> None:
    """What is unpacked goes to the worker's disk. A member can claim more packed bytes than the file has."""
    packed = min(sum(m.compress_size for m in members), file_size)
    unpacked = sum(m.file_size for m in members)
    if unpacked > MAX_RATIO * packed and unpacked > RATIO_MATTERS_ABOVE:
        detail = (
            f"The npz unpacks from {packed} to {unpacked} bytes; the limit is {MAX_RATIO} times. "
            "Save it with numpy.savez, uncompressed."
        )
        raise Refused("archive_too_large", detail)


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _mapped(file: IO[bytes]) -> mmap.mmap | bytes:
    """A file's bytes; one without any cannot be mapped."""
    if not file.seek(0, io.SEEK_END):
        return b""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _place(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, raw: IO[bytes], spill: IO[bytes]
) -> tuple[IO[bytes], int]:
    """The file that a member's plain bytes lie in, and where they begin."""
    name = member.filename
    if member.flag_bits & ENCRYPTED:
        raise Refused("unsafe_archive", f"The array {name!r} is encrypted; send the file without a password.")
    if member.compress_type == zipfile.ZIP_STORED:
        with archive.open(member) as check:  # finds the data behind the local header, and checks that header
            check.read(1)
        return raw, _data_offset(raw, member)
    start = spill.tell()
    with archive.open(member) as source:
        shutil.copyfileobj(source, spill, CHUNK)
    return spill, start


def _data_offset(raw: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: behind the local header, its name and its extra field."""
    raw.seek(member.header_offset + 26)
    lengths = raw.read(4)
    return (
        member.header_offset
        + 30
        + int.from_bytes(lengths[:2], "little")
        + int.from_bytes(lengths[2:], "little")
    )


def _array(content: mmap.mmap | bytes, start: int, size: int, name: str) -> Array:
    """The npy content at a place, whose total length is `size` bytes."""
    head = io.BytesIO(content[start : start + min(size, LONGEST_HEAD)])
    shape, fortran, dtype = _header(head, name)
    _check_dtype(dtype, name)
    offset = start + head.tell()
    claimed = int(dtype.itemsize) * int(np.prod(shape, dtype=object))
    held = min(start + size, len(content)) - offset
    if claimed > held:
        detail = (
            f"The array {name!r} claims {claimed} bytes of values, but the file holds {held}; save it again."
        )
        raise Refused("broken_array", detail)
    try:
        return np.ndarray(shape, dtype, content, offset, order="F" if fortran else "C")
    except (ValueError, OverflowError, TypeError) as error:
        raise Refused("broken_array", f"The array {name!r} has an impossible shape: {error}.") from error


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        major, _ = np.lib.format.read_magic(file)
        shape, fortran, dtype = READ_HEADER[min(major, 2)](file, max_header_size=MAX_HEADER_BYTES)
        if any(axis < 0 for axis in shape):
            raise ValueError(f"the shape {shape} has a negative axis")
    except NO_HEADER as error:
        detail = f"The array {name!r} has no readable npy header: {said(error)}."
        raise Refused("broken_array", detail) from error
    return shape, fortran, dtype


def _check_dtype(dtype: np.dtype[Any], name: str) -> None:
    if dtype.hasobject:
        detail = (
            f"The array {name!r} holds Python objects, which are never unpickled; save numbers (see dtype)."
        )
        raise Refused("pickled_array", detail)
    if dtype.kind not in NUMERIC_KINDS and not (dtype.kind in "US" and name.startswith(LABELS)):
        detail = f"The array {name!r} has the dtype {dtype}; numbers are needed (bool, integer or float)."
        raise Refused("unsupported_array", detail)
