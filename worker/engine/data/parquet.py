"""Parquet as Hugging Face's datasets write it: a column of images or of texts, and their labels.

Rows come a few at a time. Images, which stay packed as files, go into one unnamed temporary file; texts
become JSON lines, which are read like any other table.
"""

import json
import mmap
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from app.domain.dataset import Preprocess
from app.domain.errors import FieldError, Refused, pointer
from worker.engine.data.archive import (
    BROKEN,
    CHUNK,
    MAX_ENTRIES,
    MAX_ENTRY_BYTES,
    Entry,
    check_unpacked,
    open_at,
    read_at,
    said,
)
from worker.engine.data.coco import Boxes
from worker.engine.data.dataset import Targets
from worker.engine.data.images import ImageDataset
from worker.engine.data.labels import UNLABELLED, Truth, truth_of
from worker.engine.data.masks import Masks

if TYPE_CHECKING:
    from arro3.core import DataType, RecordBatch, RecordBatchReader

MAGIC = b"PAR1"
ROWS = 8  # at once; each can hold a file of MAX_ENTRY_BYTES
IMAGE, MASK, LABEL, OBJECTS = ("image", "img"), ("mask", "annotation"), "label", "objects"
BYTES, PATH, BOX, CATEGORY = "bytes", "path", "bbox", "category"
TEXTS = ("text", "text_a", "text_b", "score", "label")
BOX_NUMBERS = 4
LONGEST_LABEL = 1000  # characters: a name in a dictionary costs no bytes where it is used again
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """The columns that are read, by what they hold."""

    image: str
    mask: str | None
    label: str | None
    objects: str | None


@dataclass
class Spill:
    """Files one behind the other in a temporary file, from `add` to `entries`."""

    file: IO[bytes]
    packed: int  # bytes of the upload
    places: list[tuple[str, int, int]] = field(default_factory=list)  # name, offset, size

    def add(self, name: str, content: bytes) -> None:
        """Write one file.

        Raises:
            Refused: `archive_too_large`.
        """
        if len(content) > MAX_ENTRY_BYTES or len(self.places) >= MAX_ENTRIES:
            detail = (
                f"{name!r} has {len(content)} bytes and {len(self.places)} rows before it; the limits are "
                f"{MAX_ENTRY_BYTES} bytes and {MAX_ENTRIES} rows."
            )
            raise Refused("archive_too_large", detail)
        self.places.append((name, self.file.tell(), len(content)))
        self.file.write(content)
        check_unpacked(self.file.tell(), self.packed)

    def entries(self) -> tuple[Entry, ...]:
        """The files, mapped."""
        self.file.flush()
        content = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ)
        reads = [partial(read_at, content, offset, size) for _, offset, size in self.places]
        pairs = zip(self.places, reads, strict=True)
        return tuple(Entry(name, size, read, partial(open_at, read)) for (name, _, size), read in pairs)


def open_parquet(path: Path, preprocess: Preprocess) -> ImageDataset:
    """Open a table of images with `label`, `mask` or `objects`.

    Raises:
        Refused: `broken_parquet`, `column_missing`, `unsupported_column`, `archive_too_large`,
            `tokenizer_missing` for a table of texts, `empty_dataset`, or labels that are none.
    """
    rows = _reader(path)
    types = _types(rows)
    columns = _columns(types)
    packed = path.stat().st_size
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        images, masks, truths = Spill(first, packed), Spill(second, packed), []
        for number, row in enumerate(_rows(rows, [name for name in vars(columns).values() if name])):
            images.add(*_file(columns.image, number, row))
            if columns.mask:
                masks.add(*_file(columns.mask, number, row))
            truths.append(_within_length(number, row.get(columns.objects or columns.label or "")))
        if not truths:
            raise Refused("empty_dataset", "The parquet file has columns but no rows; send at least one.")
        entries = images.entries()
        targets: Targets | None = Masks(masks.entries(), entries, preprocess) if columns.mask else None
    if columns.objects:
        boxes = tuple(_boxes(number, value) for number, value in enumerate(truths))
        targets = Boxes(boxes, entries, preprocess)
    labels, classes, numbers = _truth(truths) if columns.label else UNLABELLED
    if columns.label and types[columns.label].is_integer(types[columns.label]):
        classes = _names(rows, columns.label) or classes
    targets = targets if numbers is None else numbers
    return ImageDataset(entries, preprocess, labels, classes, (), targets=targets)


def is_parquet(entry: Entry) -> bool:
    """Whether a file of an archive is a parquet; one that cannot be unpacked is not."""
    try:
        return entry.read(len(MAGIC)) == MAGIC
    except BROKEN:
        return False


def as_json_lines(entry: Entry) -> Entry:
    """A table of texts in an archive as JSON lines.

    Raises:
        Refused: as `open_parquet`.
    """
    with tempfile.NamedTemporaryFile() as unpacked, tempfile.TemporaryFile() as lines:
        with entry.open() as packed:
            while chunk := packed.read(CHUNK):
                unpacked.write(chunk)
        unpacked.flush()
        rows = _reader(Path(unpacked.name))
        types = _types(rows)
        named = [name for name in TEXTS if name in types]
        for name in named:
            if not _is_plain(types[name]):
                raise _unsupported(name, types[name], "a text or a number")
        for row in _rows(rows, named):
            lines.write(json.dumps(dict(row)).encode() + b"\n")
            _check_lines(entry, lines.tell())
        spill = Spill(lines, entry.size, [(entry.name, 0, lines.tell())])
        return spill.entries()[0] if lines.tell() else _empty(entry, named)


def _check_lines(entry: Entry, size: int) -> None:
    check_unpacked(size, entry.size)
    if size > MAX_ENTRY_BYTES:
        detail = f"{entry.name!r} holds over {MAX_ENTRY_BYTES} bytes of text, which is the limit."
        raise Refused("archive_too_large", detail)


def _empty(entry: Entry, columns: Sequence[str]) -> Entry:
    detail = f"{entry.name!r} has no rows of texts (columns {', '.join(columns) or 'of other names'})."
    raise Refused("empty_dataset", detail)


def _reader(path: Path) -> "RecordBatchReader":
    from arro3.io import read_parquet  # noqa: PLC0415 - other datasets do without

    try:
        return read_parquet(path, batch_size=ROWS)
    except BaseException as error:
        raise _broken(error) from error


def _rows(rows: "RecordBatchReader", names: Sequence[str]) -> Iterator[Row]:
    while True:
        try:
            batch = rows.read_next_batch()
            columns = {name: _values(batch, name) for name in names}
        except StopIteration:
            return
        except BaseException as error:
            raise _broken(error) from error
        for number in range(batch.num_rows):
            yield {name: values[number] for name, values in columns.items()}


def _types(rows: "RecordBatchReader") -> dict[str, "DataType"]:
    twice = next((name for name, count in Counter(rows.schema.names).items() if count > 1), None)
    if twice is not None:
        raise Refused("unsupported_column", f"There are two columns {twice!r}; rename one of them.")
    return dict(zip(rows.schema.names, rows.schema.types, strict=True))


def _values(batch: "RecordBatch", name: str) -> list[Any]:
    column = batch.column(name)
    return [column[number].as_py() for number in range(batch.num_rows)]


def _broken(error: BaseException) -> Refused:
    """A panic of the reader's Rust code is no Exception; what is not the file's fault goes on."""
    if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
        raise error
    return Refused("broken_parquet", f"The parquet file cannot be read: {said(error)}. Write it again.")


def _columns(types: Mapping[str, "DataType"]) -> Columns:
    pictures = [name for name, kind in types.items() if _is_file(kind)]
    masks = [name for name in pictures if name in {*MASK, LABEL}]
    images = [name for name in IMAGE if name in pictures] or [n for n in pictures if n not in masks]
    if not images and "text" in types:
        detail = (
            "A table of texts needs its tokenizer: send a zip or tar of both, the other as tokenizer.json."
        )
        raise Refused("tokenizer_missing", detail)
    if len(images) != 1:
        listed = ", ".join(f"{name} {kind}" for name, kind in types.items())
        detail = f"One column must hold images as files, best called image; the columns are {listed}."
        raise Refused("column_missing", detail, errors=(FieldError(pointer("columns", IMAGE[0]), detail),))
    mask = masks[0] if masks else None
    objects = OBJECTS if OBJECTS in types and not mask else None
    label = LABEL if LABEL in types and not (mask or objects) else None
    if label and not _is_plain(types[label]):
        raise _unsupported(label, types[label], "a class number or name")
    if objects and not _has_fields(types[objects], {BOX, CATEGORY}):
        raise _unsupported(objects, types[objects], f"a struct of lists, {BOX} and {CATEGORY}")
    return Columns(images[0], mask, label, objects)


def _is_file(kind: "DataType") -> bool:
    return _is_bytes(kind) or (
        kind.is_struct(kind) and any(f.name == BYTES and _is_bytes(f.type) for f in kind.fields)
    )


def _is_bytes(kind: "DataType") -> bool:
    return kind.is_binary(kind) or kind.is_large_binary(kind) or kind.is_binary_view(kind)


def _is_plain(kind: "DataType") -> bool:
    texts = kind.is_string(kind) or kind.is_large_string(kind) or kind.is_string_view(kind)
    return texts or kind.is_numeric(kind) or kind.is_boolean(kind)


def _has_fields(kind: "DataType", names: set[str]) -> bool:
    return kind.is_struct(kind) and names <= {one.name for one in kind.fields}


def _unsupported(name: str, kind: "DataType", wanted: str) -> Refused:
    detail = f"The column {name!r} holds {kind}; {wanted} is needed."
    return Refused("unsupported_column", detail, errors=(FieldError(pointer("columns", name), detail),))


def _file(column: str, number: int, row: Row) -> tuple[str, bytes]:
    value = row[column]
    content, path = (value.get(BYTES), value.get(PATH)) if isinstance(value, dict) else (value, None)
    if not (isinstance(content, bytes) and content):
        detail = f"Row {number} has no bytes in {column!r}; images must be in the file and not beside it."
        raise Refused("broken_image", detail)
    return str(path or f"{number:06d}"), content


def _within_length(number: int, value: Any) -> Any:  # noqa: ANN401 - whatever a row holds
    if isinstance(value, str) and len(value) > LONGEST_LABEL:
        detail = f"The label of row {number} has {len(value)} characters; the limit is {LONGEST_LABEL}."
        raise Refused("broken_labels", f"{detail} Give classes shorter names.")
    return value


def _boxes(number: int, value: Any) -> Any:  # noqa: ANN401 - whatever a row holds
    """[objects, 6] float64 corners, class and crowd, from COCO's left, top, width and height."""
    try:
        corners = np.asarray(value[BOX], np.float64).reshape(-1, BOX_NUMBERS)
        classes = np.asarray(value[CATEGORY], np.float64)
        if len(classes) != len(corners) or not np.isfinite(corners).all():
            raise ValueError(f"{len(corners)} boxes, {len(classes)} categories")  # noqa: TRY301
    except (ValueError, TypeError) as error:
        detail = f"The objects of row {number} are no boxes of four numbers with a category each: {error}."
        raise Refused("broken_labels", detail) from error
    corners[:, 2:] += corners[:, :2]
    return np.column_stack([corners, classes, np.zeros(len(classes))])


def _truth(values: Sequence[Any]) -> Truth:
    texts = [None if value is None else str(value) for value in values]
    return truth_of(texts, lambda number: f"Row {number}")


def _names(rows: "RecordBatchReader", label: str) -> tuple[str, ...]:
    """The classes' names, which Hugging Face's datasets write beside the schema."""
    try:
        features = json.loads(rows.schema.metadata_str["huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()
