"""Boxes of objects in COCO's JSON: `images`, `annotations` and `categories`."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from app.domain.dataset import Preprocess
from app.domain.errors import Refused
from worker.engine.data.archive import Entry
from worker.engine.data.dataset import Array
from worker.engine.data.decode import content, size_of
from worker.engine.data.preprocess import placed
from worker.engine.data.preprocessor_config import NAME

MAX_BYTES = 64 * 2**20  # COCO's own 118,287 training images need more; send a part of them
Id = int | str
Length = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Place = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Picture:
    """One image; its boxes are in its own pixels."""

    id: Id
    file_name: str


@dataclass(frozen=True)
class Annotation:
    """One object: left, top, width and height. A crowd is many, and finding it counts for nothing."""

    image_id: Id
    category_id: int
    bbox: tuple[Place, Place, Length, Length]
    iscrowd: int = 0


@dataclass(frozen=True)
class Category:
    """A class; a model numbers classes in the order of their ids."""

    id: int
    name: str


@dataclass(frozen=True)
class Coco:
    """The whole file; fields of no use here are passed over."""

    images: list[Picture]
    annotations: list[Annotation]
    categories: list[Category]


@dataclass(frozen=True)
class Boxes:
    """The objects of each image, moved to where preprocessing puts them."""

    rows: tuple[Array, ...]  # [objects, 6] float64: left, top, right, bottom, class, crowd
    images: tuple[Entry, ...]
    preprocess: Preprocess

    def __getitem__(self, index: int, /) -> Array:
        """[objects, 6] float64 in pixels of the input."""
        return placed(self.rows[index], size_of(self.images[index]), self.preprocess)


def annotations(entries: Sequence[Entry]) -> Entry | None:
    """The file of annotations among an archive's files, by what is in it.

    Raises:
        Refused: `labels_mismatch`, there are several, or `broken_labels`, it is too large.
    """
    found = [entry for entry in entries if _is_coco(entry)]
    if len(found) > 1:
        names = " and ".join(entry.name for entry in found[:2])
        raise Refused("labels_mismatch", f"{names} both hold annotations; leave one in the archive.")
    if found and found[0].size > MAX_BYTES:
        detail = f"{found[0].name} has {found[0].size} bytes; the limit for annotations is {MAX_BYTES}."
        raise Refused("broken_labels", detail)
    return found[0] if found else None


def boxes_of(
    coco: Entry, images: Sequence[Entry], preprocess: Preprocess
) -> tuple[Boxes, tuple[str, ...], tuple[str, ...]]:
    """The boxes of each image, the classes in the order of their ids, and what to know.

    Raises:
        Refused: `broken_labels`, or `labels_mismatch` where an image is not among COCO's.
    """
    try:
        read = TypeAdapter(Coco).validate_json(content(coco))
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"]))
        raise Refused("broken_labels", f"{coco.name}, {where}: {first['msg']}.") from error
    classes = sorted(read.categories, key=lambda category: category.id)
    rows = _rows(coco, read.annotations, {category.id: place for place, category in enumerate(classes)})
    ids = _ids(coco, read.images, images)
    empty = np.zeros((0, 6))
    boxes = Boxes(tuple(np.asarray(rows.get(one, empty)) for one in ids), tuple(images), preprocess)
    absent = len(read.images) - len(images)
    notes = (f"{absent} images of {coco.name} are not in the archive.",) if absent > 0 else ()
    return boxes, tuple(category.name for category in classes), notes


def _is_coco(entry: Entry) -> bool:
    path = PurePosixPath(entry.name)
    if path.suffix.lower() != ".json" or path.name == NAME:
        return False
    return entry.size > MAX_BYTES or b'"annotations"' in content(entry)


def _rows(
    coco: Entry, found: Sequence[Annotation], places: dict[int, int]
) -> dict[Id, list[tuple[float, ...]]]:
    rows: dict[Id, list[tuple[float, ...]]] = defaultdict(list)
    for number, one in enumerate(found):
        if one.category_id not in places:
            detail = (
                f"{coco.name}: annotation {number} is of category {one.category_id}, which is not listed."
            )
            raise Refused("broken_labels", detail)
        left, top, width, height = one.bbox
        corners = (left, top, left + width, top + height)
        rows[one.image_id].append((*corners, places[one.category_id], one.iscrowd))
    return rows


def _ids(coco: Entry, listed: Sequence[Picture], images: Sequence[Entry]) -> list[Id]:
    """COCO's id of each image, by its path beside the JSON, else by its name alone."""
    folder = PurePosixPath(coco.name).parent
    by_path = {str(folder / one.file_name): one.id for one in listed}
    by_name = {PurePosixPath(one.file_name).name: one.id for one in listed}
    ids = [by_path.get(image.name, by_name.get(PurePosixPath(image.name).name)) for image in images]
    for image, one in zip(images, ids, strict=True):
        if one is None:
            detail = f"{image.name!r} is not among the images of {coco.name}; list it there, or leave it out."
            raise Refused("labels_mismatch", detail)
    return [one for one in ids if one is not None]
