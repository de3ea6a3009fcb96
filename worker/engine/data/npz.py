"""Arrays: npz (a key is an input's name, axis 0 is samples) and plain npy. Pickles are never read.

Members that are stored uncompressed are mapped where they lie; compressed ones are unpacked once into an
unnamed temporary file and mapped there, so memory does not grow with the dataset.
"""

import hashlib
import os
import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from app.domain.errors import FieldError, Refused
from app.domain.report import ArrayInfo
from worker.engine.data.archive import BROKEN, ENCRYPTED, MAX_RATIO, broken
from worker.engine.data.dataset import Array, as_bytes, common_shape, number_labels

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000
MAX_MEMBERS = 1_000_000
MAX_UNPACKED_BYTES = 32 * 2**30
RATIO_MATTERS_ABOVE = 256 * 2**20  # masks and zeros shrink a thousand times, and smaller ones do no harm
CHUNK = 2**20
LABELS = "labels"
STREAM = "stream"
PLAIN_NAME = "array"
RAGGED = re.compile(r"(?P<name>.+)/\d{6}")
READ_HEADER = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
NUMERIC_KINDS = "biufc"


@dataclass(frozen=True)
class ArrayDataset:
    """Samples along axis 0 of some arrays, ragged samples as lists, constants as 0-d arrays."""

    stacked: dict[str, Array]
    ragged: dict[str, list[Array]]
    constants: dict[str, Array]
    labels: tuple[int | None, ...] | None
    classes: tuple[str, ...]
    samples: int
    targets: Array | None = None
    groups: tuple[int, ...] | None = None
    warnings: tuple[str, ...] = ()
    format: str = "npz"
    pairs: bool = False

    def __len__(self) -> int:
        return self.samples

    @property
    def padding(self) -> dict[str, int]:
        """Nothing is filled up."""
        return {}

    def sample(self, index: int) -> dict[str, Array]:
        """The arrays of one sample, without a batch axis; constants are in every sample."""
        stacked = {name: np.asarray(array[index]) for name, array in self.stacked.items()}
        return stacked | {name: items[index] for name, items in self.ragged.items()} | self.constants

    def content_hash(self, index: int) -> bytes:
        """16 bytes over names, dtypes, shapes and values."""
        digest = hashlib.blake2b(digest_size=16)
        for name, array in sorted(self.sample(index).items()):
            digest.update(name.encode() + b"\0" + as_bytes(array))
        return digest.digest()

    def file_name(self, _index: int) -> str | None:
        """None: arrays are no files."""
        return None

    def arrays(self) -> tuple[ArrayInfo, ...]:
        """Names, dtypes and the shapes of one sample."""
        stacked = [ArrayInfo(n, str(a.dtype), a.shape[1:]) for n, a in self.stacked.items()]
        ragged = [
            ArrayInfo(n, str(items[0].dtype), common_shape({a.shape for a in items}))
            for n, items in self.ragged.items()
        ]
        return (*stacked, *ragged, *(ArrayInfo(n, str(a.dtype), ()) for n, a in self.constants.items()))


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
    return _arrange(arrays)


def open_npy(path: Path) -> ArrayDataset:
    """Open a plain npy file: one array without a name, whose axis 0 is samples."""
    with path.open("rb") as file:
        return _arrange({PLAIN_NAME: _map(file, path.stat().st_size, path.name)})


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


def _arrange(arrays: dict[str, Array]) -> ArrayDataset:
    labels, streams = arrays.pop(LABELS, None), arrays.pop(STREAM, None)
    ragged: dict[str, list[Array]] = {}
    for key in sorted(key for key in arrays if RAGGED.fullmatch(key)):
        ragged.setdefault(cast("re.Match[str]", RAGGED.fullmatch(key))["name"], []).append(arrays.pop(key))
    constants = {name: array for name, array in arrays.items() if not array.ndim}
    stacked = {name: array for name, array in arrays.items() if array.ndim}
    samples = _count({n: len(a) for n, a in stacked.items()} | {n: len(a) for n, a in ragged.items()})
    groups = None if streams is None else _streams(streams, samples)
    if labels is None:
        return ArrayDataset(stacked, ragged, constants, None, (), samples, groups=groups)
    if not labels.ndim or len(labels) != samples:
        detail = f"labels has the shape {list(labels.shape)}, but there are {samples} samples."
        raise Refused("unequal_lengths", detail)
    if not _are_classes(labels):
        return ArrayDataset(stacked, ragged, constants, None, (), samples, _finite(labels), groups)
    numbers, classes = _classes(labels.reshape(-1))
    return ArrayDataset(stacked, ragged, constants, numbers, classes, samples, groups=groups)


def _count(lengths: dict[str, int]) -> int:
    if not lengths or 0 in lengths.values():
        raise Refused(
            "empty_dataset", "The file holds no samples: axis 0 of an array is samples; send at least one."
        )
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        errors = tuple(FieldError(f"/arrays/{name}", f"{length} samples") for name, length in lengths.items())
        raise Refused("unequal_lengths", f"Arrays differ in samples along axis 0: {found}.", errors=errors)
    return next(iter(lengths.values()))


def _streams(streams: Array, samples: int) -> tuple[int, ...]:
    """Streams numbered from 0 in the order of their first samples; a sample's place is its place in time."""
    if streams.shape != (samples,) or streams.dtype.kind not in "iu":
        detail = (
            f"stream is {streams.dtype} {list(streams.shape)}; it names each sample's stream: integers, "
            f"[{samples}]."
        )
        raise Refused("unequal_lengths", detail)
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(int(stream), len(numbers)) for stream in streams)


def _are_classes(labels: Array) -> bool:
    """One whole number or name for each sample; all else are numbers or arrays to come close to."""
    if labels.size != len(labels):
        return False
    flat = labels.reshape(-1)
    return flat.dtype.kind in "biuUS" or bool((np.isfinite(flat) & (flat == np.trunc(flat.real))).all())


def _classes(flat: Array) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    if flat.dtype.kind in "US":
        return number_labels([str(v, "utf-8", "replace") if isinstance(v, bytes) else str(v) for v in flat])
    return number_labels([str(int(value)) for value in flat.real])


def _finite(targets: Array) -> Array:
    if targets.dtype.kind not in "biuf":
        raise Refused("unsupported_array", f"labels has the dtype {targets.dtype}; real numbers are needed.")
    for index, target in enumerate(targets):
        if targets.dtype.kind == "f" and not np.isfinite(target).all():
            detail = f"labels holds NaN or an infinity for sample {index}; finite numbers are needed."
            raise Refused("labels_not_finite", detail, errors=(FieldError(f"/labels/{index}", detail),))
    return targets
