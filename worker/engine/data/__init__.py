"""Datasets: told apart by content, opened without unpacking, decoded sample by sample."""

import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from app.domain.errors import Refused
from worker.engine.data.archive import BROKEN, ENCRYPTED, Entry, is_tar, open_tar, open_zip, zip_members
from worker.engine.data.dataset import Dataset
from worker.engine.data.h5 import MAGIC as H5_MAGIC
from worker.engine.data.h5 import open_h5
from worker.engine.data.images import open_images
from worker.engine.data.npz import MAGIC, open_npy, open_npz
from worker.engine.data.parquet import MAGIC as PARQUET_MAGIC
from worker.engine.data.parquet import as_json_lines, is_parquet, open_parquet
from worker.engine.data.pb import is_test_data, open_pb, sets_beside
from worker.engine.data.running_text import open_running_text
from worker.engine.data.safetensors import is_safetensors, open_safetensors
from worker.engine.data.text import TOKENIZER, bare_table, open_text
from worker.engine.requests import Data

__all__ = ["Dataset", "open_dataset"]
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
FORMATS = (
    "an npz, npy or safetensors of arrays, an h5 in AI Hub's layout, a parquet of images, or a zip or tar of "
    "images, of texts "
    "with their tokenizer.json, or of test_data_set_*"
)


def open_dataset(data: Data) -> Dataset:
    """Open a dataset by what its first bytes say; of a folder, the test data sets in it.

    Raises:
        Refused: `empty_file`, `empty_dataset`, `unknown_data_format`, or what its reader refuses.
    """
    return open_pb(sets_beside(data.path)) if data.path.is_dir() else _open_file(data)


def _open_file(data: Data) -> Dataset:
    with data.path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise Refused("empty_file", f"The dataset is empty (0 bytes); send {FORMATS}.")
    if head.startswith(MAGIC):
        return open_npy(data.path)
    if head.startswith(H5_MAGIC):
        return open_h5(data.path)
    if is_safetensors(head, data.path.stat().st_size):
        return open_safetensors(data.path)
    if head.startswith(PARQUET_MAGIC):
        return open_parquet(data.path, data.preprocess)
    if head.startswith(ZIP_MAGIC):
        return _open_zip(data)
    if is_tar(data.path):
        return _open_entries(open_tar(data.path), data)
    if bare_table(head):
        detail = f"A table of texts needs its tokenizer: send a zip or tar of both, the other as {TOKENIZER}."
        raise Refused("tokenizer_missing", detail)
    raise Refused("unknown_data_format", f"The dataset begins with {head[:8]!r}; send {FORMATS}.")


def _open_zip(data: Data) -> Dataset:
    first = _first_bytes(data.path)
    if first is None:
        raise Refused("empty_dataset", f"The zip holds no files; send {FORMATS}.")
    return open_npz(data.path) if first == MAGIC else _open_entries(open_zip(data.path), data)


def _open_entries(entries: Sequence[Entry], data: Data) -> Dataset:
    """A tokenizer means texts, test data sets mean tensors; everything else is looked through for images."""
    if any(is_test_data(entry.name) for entry in entries):
        return open_pb(entries)
    if any(PurePosixPath(entry.name).name == TOKENIZER for entry in entries):
        entries = [as_json_lines(entry) if is_parquet(entry) else entry for entry in entries]
        text = data.preprocess.text
        return open_running_text(entries, text, stateful=bool(data.state)) or open_text(entries, text)
    return open_images(entries, data.preprocess)


def _first_bytes(path: Path) -> bytes | None:
    """The first bytes of the first file in a zip; None when there is none, nothing when it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = zip_members(archive)
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
