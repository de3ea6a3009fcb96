"""Segmentation masks: an image of class numbers for each image, in a folder `masks` beside `images`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from app.domain.dataset import Preprocess
from app.domain.errors import Refused
from worker.engine.data.archive import Entry
from worker.engine.data.dataset import Array
from worker.engine.data.decode import decoded, size_of
from worker.engine.data.preprocess import check_resized, positions

IMAGES, MASKS = "images", "masks"
MODES = ("1", "L", "P")


@dataclass(frozen=True)
class Masks:
    """Masks that stay packed until they are asked for, in the geometry of their images."""

    masks: tuple[Entry, ...]
    images: tuple[Entry, ...]
    preprocess: Preprocess

    def __getitem__(self, index: int, /) -> Array:
        """Class numbers, [H, W] int16; -1 where the mask has 255, or where the image is padded."""
        entry, image = self.masks[index], self.images[index]
        mask = decoded(entry)
        if mask.mode not in MODES:
            detail = f"{entry.name!r} has the mode {mask.mode}; a mask has one 8-bit class number per pixel."
            raise Refused("unsupported_image", detail)
        if mask.size != size_of(image):
            detail = f"The mask {entry.name!r} has {mask.size} pixels, its image {size_of(image)}."
            raise Refused("labels_mismatch", detail)
        check_resized(entry.name, mask.size, self.preprocess)
        return positions(mask, self.preprocess)


def is_mask(name: str) -> bool:
    """Whether a path leads through a folder of masks."""
    return MASKS in PurePosixPath(name).parts[:-1]


def masks_of(
    masks: Sequence[Entry], images: Sequence[Entry], preprocess: Preprocess
) -> tuple[Masks, tuple[str, ...], tuple[str, ...]]:
    """The mask of each image, by the same path without `images` or `masks` and the ending.

    Raises:
        Refused: `labels_mismatch`, an image has no mask, or a mask no image.
    """
    by_place = {_place(mask.name): mask for mask in masks}
    places = [_place(image.name) for image in images]
    alone = [image.name for image, place in zip(images, places, strict=True) if place not in by_place]
    alone += [mask.name for place, mask in by_place.items() if place not in places]
    if alone:
        detail = (
            f"{alone[0]!r} has no mate ({len(alone)} such files): each images/<path>.jpg needs a "
            "masks/<path>.png."
        )
        raise Refused("labels_mismatch", detail)
    return Masks(tuple(by_place[place] for place in places), tuple(images), preprocess), (), ()


def _place(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    return (*(part for part in path.parts[:-1] if part not in {IMAGES, MASKS}), path.stem)
