"""Datasets: told apart by content, opened without unpacking, decoded sample by sample."""

import zipfile
from pathlib import Path

from app.domain.errors import Refused
from worker.engine.data.archive import BROKEN, ENCRYPTED, is_tar
from worker.engine.data.dataset import Dataset
from worker.engine.data.images import open_images
from worker.engine.data.npz import MAGIC, open_npy, open_npz
from worker.engine.requests import Data

__all__ = ["Dataset", "open_dataset"]
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
FORMATS = "an npz or npy of arrays, or a zip or tar of images"


def open_dataset(data: Data) -> Dataset:
    """Open a dataset by what its first bytes say.

    Raises:
        Refused: `empty_file`, `empty_dataset`, `unknown_data_format`, or what its reader refuses.
    """
    with data.path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise Refused("empty_file", f"The dataset is empty (0 bytes); send {FORMATS}.")
    if head.startswith(MAGIC):
        return open_npy(data.path)
    if head.startswith(ZIP_MAGIC):
        return _open_zip(data)
    if is_tar(data.path):
        return open_images(data.path, data.preprocess, is_zip=False)
    raise Refused("unknown_data_format", f"The dataset begins with {head[:8]!r}; send {FORMATS}.")


def _open_zip(data: Data) -> Dataset:
    first = _first_bytes(data.path)
    if first is None:
        raise Refused("empty_dataset", f"The zip holds no files; send {FORMATS}.")
    return open_npz(data.path) if first == MAGIC else open_images(data.path, data.preprocess, is_zip=True)


def _first_bytes(path: Path) -> bytes | None:
    """The first bytes of the first file in a zip; None when there is none, nothing when it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            return _head(archive, members[0]) if members else None
    except BROKEN as error:
        raise Refused("broken_archive", f"The zip cannot be read: {error}. Upload it again.") from error


def _head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.flag_bits & ENCRYPTED:
        raise Refused("unsafe_archive", "The zip is encrypted; send it without a password.")
    try:
        with archive.open(member) as file:
            return file.read(len(MAGIC))
    except BROKEN:  # whoever reads the file itself names it
        return b""
