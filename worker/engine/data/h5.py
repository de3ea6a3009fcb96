"""HDF5 in the layout of Qualcomm AI Hub's datasets.

`data/<index>` is an input, its attribute `name` the input's name; `data/<index>/batch_<n>` is its array for
sample n, in the input's full shape. An input called `labels` holds labels. Nothing outside the file is
followed: HDF5 has links, virtual datasets and raw storage that name other files.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from app.domain.errors import Refused
from worker.engine.data.archive import MAX_ENTRIES, MAX_ENTRY_BYTES, MAX_RATIO, MAX_UNPACKED_BYTES
from worker.engine.data.arrays import NUMERIC_KINDS, ArrayDataset, arrange
from worker.engine.data.npz import RATIO_MATTERS_ABOVE

if TYPE_CHECKING:
    import h5py

MAGIC = b"\x89HDF\r\n\x1a\n"
FORMAT = "h5"
Node: TypeAlias = Any  # h5py has no types: a group or a dataset
ROOT = "data"
NAME = "name"
SAMPLE = "batch_"
BROKEN = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
)  # h5py's errors share no base


@dataclass(frozen=True)
class Batch:
    """One array, which stays in its file."""

    stored: "h5py.Dataset"
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""
        return tuple(self.stored.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What its values are."""
        found: np.dtype[Any] = self.stored.dtype
        return found

    def __getitem__(self, index: int | EllipsisType, /) -> object:
        try:
            return self.stored[index]
        except BROKEN as error:
            raise Refused("broken_array", f"{self.name} cannot be read: {error}. Save it again.") from error


def open_h5(path: Path) -> ArrayDataset:
    """Open a dataset as AI Hub's client writes and downloads it.

    Raises:
        Refused: `unknown_data_format` for another layout, `broken_array`, `unsafe_archive`,
            `unsupported_array`, `archive_too_large`, or what does not make samples.
    """
    import h5py  # noqa: PLC0415 - 0.2 s that other datasets do without

    try:
        root = h5py.File(path, "r", locking=False)
        arrays = dict(_arrays(root))
    except BROKEN as error:
        raise Refused("broken_array", f"The HDF5 file cannot be read: {error}. Save it again.") from error
    _check_sizes(arrays, path.stat().st_size)
    return arrange(arrays, FORMAT)


def _arrays(root: "h5py.File") -> Iterator[tuple[str, Batch]]:
    """Each array as `input/000000`."""
    names: set[str] = set()
    for where, group in _members(root, ROOT).items():
        name = group.attrs.get(NAME) if hasattr(group, "keys") else None
        if not (isinstance(name, str) and name) or name in names:
            raise _other_layout(f"{ROOT}/{where} is no group with the attribute {NAME!r} and its own name")
        names.add(name)
        for n in range(len(group)):
            yield f"{name}/{n:06d}", _array(group, n)


def _members(root: "h5py.Group", name: str) -> Mapping[str, "h5py.Group"]:
    if name not in root or not hasattr(_own(root, name), "keys"):
        raise _other_layout(f"there is no group {name!r}")
    group = _own(root, name)
    return {key: _own(group, key) for key in group}


def _array(group: "h5py.Group", n: int) -> Batch:
    name = f"{SAMPLE}{n}"
    if n >= MAX_ENTRIES:
        raise Refused("archive_too_large", f"{group.name} holds over {MAX_ENTRIES} samples, the limit.")
    if name not in group:
        raise _other_layout(f"{group.name} holds {len(group)} arrays, but no {name}")
    found = _own(group, name)
    where = f"{group.name}/{name}"
    if hasattr(found, "keys") or found.dtype.kind not in NUMERIC_KINDS or found.shape is None:
        raise Refused("unsupported_array", f"{where} is no array of numbers (bool, integer or float).")
    if found.is_virtual or found.external:
        raise Refused(
            "unsafe_archive", f"{where} takes its values from another file; store them in this one."
        )
    _check_size(where, found)
    return Batch(found, where)


def _own(group: "h5py.Group", name: str) -> Node:
    """A member of a group, if it lies in it and not elsewhere."""
    import h5py  # noqa: PLC0415

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise Refused("unsafe_archive", f"{group.name}/{name} is a link; store the array itself there.")
    return group[name]


def _check_size(where: str, array: "h5py.Dataset") -> None:
    """A chunk is unpacked as a whole, however little of it is read."""
    chunk = math.prod(array.chunks or ()) * array.dtype.itemsize
    if max(array.nbytes, chunk) > MAX_ENTRY_BYTES:
        size = max(array.nbytes, chunk)
        detail = f"{where} unpacks to {size} bytes; the limit for one sample is {MAX_ENTRY_BYTES}."
        raise Refused("archive_too_large", detail)


def _check_sizes(arrays: Mapping[str, Batch], file_size: int) -> None:
    unpacked = sum(array.stored.nbytes for array in arrays.values())
    if unpacked > MAX_UNPACKED_BYTES or (unpacked > MAX_RATIO * file_size and unpacked > RATIO_MATTERS_ABOVE):
        detail = (
            f"The HDF5 file of {file_size} bytes unpacks to {unpacked}; the limits are "
            f"{MAX_RATIO} times and {MAX_UNPACKED_BYTES} bytes. Send fewer samples, or an npz."
        )
        raise Refused("archive_too_large", detail)


def _other_layout(found: str) -> Refused:
    detail = (
        f"The HDF5 file is not in AI Hub's layout ({found}): data/<index> with the attribute 'name', "
        "data/<index>/batch_<n> for each sample. Write it with qai_hub, or send an npz."
    )
    return Refused("unknown_data_format", detail)
