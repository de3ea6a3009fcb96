"""Arrays: npz (a key is an input's name, axis 0 is samples) and plain npy. Pickles are never read.

Members that are stored uncompressed are mapped where they lie; compressed ones are unpacked once into an
unnamed temporary file and mapped there, so memory does not grow with the dataset.
"""

import os
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from app.domain.errors import Refused
from worker.engine.data.archive import BROKEN, ENCRYPTED, MAX_RATIO, broken
from worker.engine.data.arrays import LABELS, NUMERIC_KINDS, ArrayDataset, arrange
from worker.engine.data.dataset import Array

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000
MAX_MEMBERS = 1_000_000
MAX_UNPACKED_BYTES = 32 * 2**30
RATIO_MATTERS_ABOVE = 256 * 2**20  # masks and zeros shrink a thousand times, and smaller ones do no harm
CHUNK = 2**20
PLAIN_NAME = "array"
FORMAT = "npz"
READ_HEADER = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}


def open_npz(path: Path) -> ArrayDataset:
    """Open an npz file.

    Raises:
        Refused: pickles, arrays of an unknown kind, sizes that lie, or arrays whose lengths differ.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            members = [m for m in archive.infolist() if not m.is_dir()]
            _check_sizes(members, path.stat().st_size)
            arrays = {m.filename.removesuffix(".npy"): _read_member(archive, m, raw) for m in members}
    except BROKEN as error:
        raise broken(error, f"The npz cannot be unpacked: {error}. Save it again.") from error
    return arrange(arrays, FORMAT)


def open_npy(path: Path) -> ArrayDataset:
    """Open a plain npy file: one array without a name, whose axis 0 is samples."""
    with path.open("rb") as file:
        return arrange({PLAIN_NAME: _map(file, path.stat().st_size, path.name)}, FORMAT)


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
    names = [m.filename for m in members]
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


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, raw: IO[bytes]) -> Array:
    name = member.filename
    if member.flag_bits & ENCRYPTED:
        raise Refused("unsafe_archive", f"The array {name!r} is encrypted; send the file without a password.")
    if member.compress_type == zipfile.ZIP_STORED:
        with archive.open(member) as check:  # finds the data behind the local header, and checks that header
            check.read(1)
        raw.seek(_data_offset(raw, member))
        return _map(raw, member.file_size, name)
    with tempfile.TemporaryFile() as spill:
        _unpack(archive, member, spill)
        return _map(spill, member.file_size, name)


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


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, spill: IO[bytes]) -> None:
    with archive.open(member) as source:
        while chunk := source.read(CHUNK):
            spill.write(chunk)
    spill.seek(0)


def _map(file: IO[bytes], size: int, name: str) -> Array:
    """Map the npy content at the file's position, whose total length is `size` bytes."""
    start = file.tell()
    shape, fortran, dtype = _header(file, name)
    _check_dtype(dtype, name)
    offset = file.tell()
    claimed = int(dtype.itemsize) * int(np.prod(shape, dtype=object))
    held = min(start + size, os.fstat(file.fileno()).st_size) - offset
    if claimed > held:
        detail = (
            f"The array {name!r} claims {claimed} bytes of values, but the file holds {held}; save it again."
        )
        raise Refused("broken_array", detail)
    if not claimed or not shape:
        return np.frombuffer(file.read(claimed), dtype).reshape(shape)
    return np.memmap(file, dtype, "r", offset, shape, "F" if fortran else "C")


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        major, _ = np.lib.format.read_magic(file)
        shape, fortran, dtype = READ_HEADER[min(major, 2)](file, max_header_size=MAX_HEADER_BYTES)
        if any(axis < 0 for axis in shape):
            raise ValueError(f"the shape {shape} has a negative axis")  # noqa: TRY301 - one way out for all
    except (ValueError, EOFError, SyntaxError, TypeError, KeyError) as error:
        raise Refused("broken_array", f"The array {name!r} has no readable npy header: {error}.") from error
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
