"""Images in a zip or a tar.

Labels are boxes in COCO's JSON, masks in a folder, classes in `labels.csv`, or a folder per class.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from app.domain.dataset import Preprocess
from app.domain.errors import Refused
from app.domain.report import ArrayInfo
from worker.engine.data.archive import BROKEN, Entry
from worker.engine.data.coco import annotations, boxes_of
from worker.engine.data.dataset import Array, Targets, common_shape
from worker.engine.data.decode import broken, content, decoded
from worker.engine.data.labels import UNLABELLED, Truth, truth_of
from worker.engine.data.masks import is_mask, masks_of
from worker.engine.data.preprocess import check_resized, pixels
from worker.engine.data.preprocessor_config import NAME, read_config

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF8", b"P5", b"P6", b"P2", b"P3")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm"})
HEAD_BYTES = 12
LABELS_FILE = "labels.csv"
INPUT = "image"
MAX_DECODED_BY_EXAMINE = 2000
SEVERAL = 2


@dataclass(frozen=True)
class ImageDataset:
    """Images that stay packed until they are asked for."""

    entries: tuple[Entry, ...]
    preprocess: Preprocess
    labels: tuple[int | None, ...] | None
    classes: tuple[str, ...]
    warnings: tuple[str, ...]
    name: str = INPUT
    format: str = "images"
    targets: Targets | None = None
    groups: None = None
    pairs: bool = False

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def padding(self) -> dict[str, int]:
        """Nothing is filled up."""
        return {}

    def sample(self, index: int) -> dict[str, Array]:
        """The pixels in the preprocessing's geometry, colour and layout, uint8."""
        entry = self.entries[index]
        image = decoded(entry)
        check_resized(entry.name, image.size, self.preprocess)
        return {self.name: pixels(image, self.preprocess)}

    def content_hash(self, index: int) -> bytes:
        """16 bytes over the file's bytes; its name does not count."""
        return hashlib.blake2b(content(self.entries[index]), digest_size=16).digest()

    def file_name(self, index: int) -> str | None:
        """The path in the archive."""
        return self.entries[index].name

    def arrays(self) -> tuple[ArrayInfo, ...]:
        """The shape over up to 2,000 decoded images, spread over all."""
        step = -(-len(self) // MAX_DECODED_BY_EXAMINE)
        shapes = {self.sample(index)[self.name].shape for index in range(0, len(self), step)}
        return (ArrayInfo(self.name, self.preprocess.dtype, common_shape(shapes)),)


def open_images(files: Sequence[Entry], preprocess: Preprocess) -> ImageDataset:
    """Find the images among an archive's files.

    Where no preprocessing is given, a bundled `preprocessor_config.json` is followed.

    Raises:
        Refused: no images, a broken one, or labels that do not match.
    """
    entries = [e for e in files if not _is_clutter(e.name)]
    found = sorted((e for e in entries if _is_image(e)), key=lambda e: e.name)
    images = [e for e in found if not is_mask(e.name)]
    if not images:
        raise Refused("unknown_data_format", _nothing_found(entries))
    sheet = next((e for e in entries if PurePosixPath(e.name).name == LABELS_FILE), None)
    config = next((e for e in entries if PurePosixPath(e.name).name == NAME), None)
    followed = config is not None and preprocess == Preprocess()
    if config and followed:
        preprocess = read_config(content(config))
    coco, masks = annotations(entries), [e for e in found if is_mask(e.name)]
    used = [e.name for e in (*found, sheet, config, coco) if e]
    notes = (f"The preprocessing is that of {config.name}.",) if config and followed else ()
    left = _left_out([e.name for e in entries if e.name not in used])
    if coco or masks:
        targets, classes, said = (
            boxes_of(coco, images, preprocess) if coco else masks_of(masks, images, preprocess)
        )
        return ImageDataset(tuple(images), preprocess, None, classes, (*said, *notes, *left), targets=targets)
    (labels, classes, numbers), said = _from_sheet(sheet, images) if sheet else _from_folders(images)
    return ImageDataset(tuple(images), preprocess, labels, classes, (*said, *notes, *left), targets=numbers)


def _from_sheet(sheet: Entry, images: list[Entry]) -> tuple[Truth, tuple[str, ...]]:
    rows = _rows(sheet)
    folder = PurePosixPath(sheet.name).parent
    by_name = {str(folder / name): label for name, label in rows}
    if len(by_name) < len(rows):
        (twice, count), *_ = Counter(str(folder / name) for name, _ in rows).most_common(1)
        detail = f"{sheet.name} has {count} rows for {twice!r}; give each image one."
        raise Refused("broken_labels", detail)
    absent = by_name.keys() - {image.name for image in images}
    if absent:
        first, count = min(absent), len(absent)
        detail = f"{sheet.name} names {first!r}, which is no image in the archive ({count} such rows)."
        raise Refused("labels_mismatch", detail)
    values = [by_name.get(image.name) for image in images]
    truth = truth_of(values, lambda index: f"In {sheet.name}, {images[index].name!r}")
    missing = values.count(None)
    return truth, (f"{missing} images have no row in {sheet.name}.",) if missing else ()


def _rows(sheet: Entry) -> list[tuple[str, str]]:
    try:
        table = [row for row in csv.reader(io.StringIO(content(sheet).decode("utf-8-sig"))) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused("broken_labels", f"{sheet.name} is not a CSV file in UTF-8: {error}.") from error
    for number, row in enumerate(table, 1):
        if len(row) != SEVERAL:
            detail = f"{sheet.name} has {len(row)} columns in row {number}; two are needed: file,label."
            raise Refused("broken_labels", detail)
    pairs = [(name.strip(), label.strip()) for name, label in table]
    return pairs[1:] if pairs[:1] == [("file", "label")] else pairs


def _from_folders(images: list[Entry]) -> tuple[Truth, tuple[str, ...]]:
    """The first folder below what all paths share is the class; sorted folders are numbered from 0."""
    parents = [PurePosixPath(image.name).parts[:-1] for image in images]
    columns = enumerate(zip(*parents, strict=False))
    shared = next((i for i, names in columns if len(set(names)) > 1), min(map(len, parents)))
    folders = [parts[shared] if len(parts) > shared else None for parts in parents]
    if len({folder for folder in folders if folder is not None}) < SEVERAL:
        return UNLABELLED, ("There are no labels: add a labels.csv (file,label) or a folder per class.",)
    if None in folders:
        note = "Some images lie in folders and some do not, so folders were not taken for labels."
        return UNLABELLED, (note,)
    classes = sorted({folder for folder in folders if folder is not None})
    index = {name: i for i, name in enumerate(classes)}
    return (tuple(index[folder] for folder in folders if folder is not None), tuple(classes), None), ()


def _is_image(entry: Entry) -> bool:
    try:
        head = entry.read(HEAD_BYTES)
    except BROKEN as error:
        raise broken(entry, str(error)) from error
    if head.startswith(SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return True
    if PurePosixPath(entry.name).suffix.lower() in SUFFIXES:
        raise broken(entry, "its content is no image")
    return False


def _is_clutter(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or parts[-1].startswith(".") or parts[-1] in {"Thumbs.db", "desktop.ini"}


def _nothing_found(entries: list[Entry]) -> str:
    shown = ", ".join(entry.name for entry in entries[:3]) or "no files at all"
    return f"The archive holds no images but {shown}; send JPEG or PNG images, or an npz of arrays."


def _left_out(others: list[str]) -> tuple[str, ...]:
    if not others:
        return ()
    return (f"{len(others)} files that are no images were left out, such as {others[0]!r}.",)
