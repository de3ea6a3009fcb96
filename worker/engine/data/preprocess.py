"""From a decoded image to a model's input: geometry on pixels first, then scale, mean and std.

Resizing is Pillow's, which filters before it shrinks (antialiasing). EXIF orientation is ignored.
"""

from dataclasses import replace

import numpy as np
from PIL import Image

from app.domain.dataset import Preprocess
from app.domain.errors import FieldError, Refused
from worker.engine.data.dataset import Array

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
LETTERBOX_GREY = 114  # what YOLO-style letterboxing pads with
RGB_CHANNELS = 3
FILLS: dict[str, int] = {"L": LETTERBOX_GREY, "I": 0}  # by mode: grey pictures, and masks
VOID = 255
MAX_PIXELS = 100_000_000


def check_resized(name: str, size: tuple[int, int], spec: Preprocess) -> None:
    """Refuse a picture of this width and height that resizing would make too large.

    Raises:
        Refused: `image_too_large`.
    """
    width, height = _resized_size(size, spec)
    if width * height > MAX_PIXELS:
        detail = (
            f"{name!r} of {size[0]} x {size[1]} pixels becomes {width} x {height} at resize {spec.resize}; "
            f"the limit is {MAX_PIXELS} pixels. Crop it, or set preprocess.fit to stretch."
        )
        raise Refused("image_too_large", detail)


def pixels(image: Image.Image, spec: Preprocess) -> Array:
    """Colour, resize, crop and layout.

    Returns:
        uint8, [C, H, W] or [H, W, C] by `spec.layout`; C is 1 for GRAY and Y, else 3.
    """
    image = _cropped(_resized(_coloured(image, spec.color), spec), spec.crop)
    array = np.asarray(image, np.uint8)
    array = array[..., None] if array.ndim < RGB_CHANNELS else array
    if spec.color == "BGR":
        array = array[..., ::-1]
    return np.ascontiguousarray(array if spec.layout == "NHWC" else array.transpose(2, 0, 1))


def positions(mask: Image.Image, spec: Preprocess) -> Array:
    """A mask of class numbers where `pixels` puts its image, by nearest neighbours.

    Returns:
        [H, W] int16; -1 where the mask has 255 (not labelled, as in PASCAL VOC), and around the image.
    """
    numbers = np.asarray(mask, np.int32) + 1  # 0 is what Pillow fills with
    numbers[numbers == VOID + 1] = 0
    nearest = replace(spec, interpolation="nearest")
    return np.asarray(_cropped(_resized(Image.fromarray(numbers), nearest), spec.crop), np.int16) - 1


def placed(boxes: Array, size: tuple[int, int], spec: Preprocess) -> Array:
    """Boxes of an image where `pixels` puts it; what a crop leaves nothing of is left out.

    Args:
        boxes: [n, 4 and more] corners in pixels of the image, left, top, right, bottom.
        size: the image's width and height.
        spec: resize, size, fit and crop are read.
    """
    resized = _resized_size(size, spec)
    box = _box(spec) if spec.fit == "letterbox" else None
    canvas = box or resized
    offset = _centred(resized, canvas)
    scale = np.array(resized) / size
    corners = boxes[:, :4] * np.tile(scale, 2) + np.tile(offset, 2)
    if spec.crop:
        cut = np.array(_centred((spec.crop, spec.crop), canvas))
        corners = np.clip(corners - np.tile(cut, 2), 0, spec.crop)
    left = (corners[:, 2:] > corners[:, :2]).all(1) if spec.crop else ...
    return np.concatenate([corners, boxes[:, 4:]], axis=1)[left]


def values(array: Array, spec: Preprocess) -> Array:
    """`(pixel * scale - mean) / std`, mean and std in the order of the array's channels.

    Args:
        array: uint8; by `spec.layout` its third axis from the end or its last one is channels.
        spec: scale, mean, std, layout and dtype are read.

    Returns:
        The same shape in `spec.dtype`; uint8 is rounded and clipped.

    Raises:
        Refused: `invalid_preprocess`, mean or std do not have one value or one per channel.
    """
    mean = _per_channel("mean", spec.mean, array, spec.layout)
    std = _per_channel("std", spec.std, array, spec.layout)
    result = (array.astype(np.float32) * np.float32(spec.scale) - mean) / std
    if spec.dtype == "uint8":
        return np.clip(np.rint(result), 0, 255).astype(np.uint8)
    return result.astype(spec.dtype)


def _per_channel(name: str, numbers: tuple[float, ...], array: Array, layout: str) -> Array:
    if name == "std" and not all(numbers):
        raise _invalid(name, "std holds 0, by which nothing can be divided.")
    given = np.asarray(numbers, np.float32)
    if given.size == 1:
        return given.reshape(())
    axis = max(array.ndim - 3, 0) if layout == "NCHW" else array.ndim - 1
    if not array.ndim or given.size != array.shape[axis]:
        shape = list(array.shape)
        raise _invalid(
            name, f"{name} has {given.size} values, but samples of shape {shape} differ ({layout})."
        )
    return given.reshape([-1 if i == axis else 1 for i in range(array.ndim)])


def _invalid(name: str, detail: str) -> Refused:
    return Refused("invalid_preprocess", detail, errors=(FieldError(f"/preprocess/{name}", detail),))


def _coloured(image: Image.Image, color: str) -> Image.Image:
    if color == "GRAY":
        return image.convert("L")
    rgb = image.convert("RGB")
    return rgb.convert("YCbCr").getchannel("Y") if color == "Y" else rgb


def _resized(image: Image.Image, spec: Preprocess) -> Image.Image:
    box = _box(spec)
    if box is None:
        return image
    resized = image.resize(_resized_size(image.size, spec), FILTERS[spec.interpolation])
    return _letterboxed(resized, box) if spec.fit == "letterbox" else resized


def _box(spec: Preprocess) -> tuple[int, int] | None:
    """The width and height that images are resized to."""
    if spec.size:
        return spec.size[1], spec.size[0]
    return (spec.resize, spec.resize) if spec.resize else None


def _resized_size(size: tuple[int, int], spec: Preprocess) -> tuple[int, int]:
    box = _box(spec)
    if box is None or spec.fit == "stretch":
        return box or size
    decisive = max if spec.fit == "short_side" else min
    side, own = decisive(zip(box, size, strict=True), key=lambda pair: pair[0] / pair[1])
    width, height = (max(1, round(length * side / own)) for length in size)
    return width, height


def _letterboxed(image: Image.Image, box: tuple[int, int]) -> Image.Image:
    fill = FILLS.get(image.mode, (LETTERBOX_GREY,) * RGB_CHANNELS)
    padded = Image.new(image.mode, box, fill)
    padded.paste(image, _centred(image.size, box))
    return padded


def _centred(size: tuple[int, int], around: tuple[int, int]) -> tuple[int, int]:
    """Where something begins that lies in the middle of another."""
    return (around[0] - size[0]) // 2, (around[1] - size[1]) // 2


def _cropped(image: Image.Image, crop: int | None) -> Image.Image:
    """The centre, a square of `crop` pixels; where the image is smaller, the rest is black."""
    if crop is None:
        return image
    left, top = _centred((crop, crop), image.size)
    return image.crop((left, top, left + crop, top + crop))
