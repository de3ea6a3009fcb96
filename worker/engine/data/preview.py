"""Show the first samples of a dataset: thumbnails, labels, and a few values."""

import base64
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from app.domain.dataset import Preprocess
from app.domain.flips import PREDICTIONS
from app.domain.preview import ArrayPreview, Preview, SamplePreview
from worker.engine.data.dataset import Array, Dataset, class_name

MOST_VALUES = 8
MOST_CHARACTERS = 500
THUMBNAIL = 128
LOSSLESS = 64  # up to here PNG is as small as JPEG
GREY, COLOURS = 1, 3


def preview(dataset: Dataset, preprocess: Preprocess) -> Preview:
    """The first 8 samples.

    Args:
        dataset: any.
        preprocess: says how images lie in their arrays.

    Raises:
        Refused: one of them cannot be read.
    """
    return Preview(tuple(_sample(dataset, i, preprocess) for i in range(min(len(dataset), PREDICTIONS))))


def _sample(dataset: Dataset, index: int, preprocess: Preprocess) -> SamplePreview:
    label = dataset.labels[index] if dataset.labels else None
    is_bgr = dataset.format == "images" and preprocess.color == "BGR"
    arrays = [_array(name, array, is_bgr=is_bgr) for name, array in dataset.sample(index).items()]
    names = (dataset.file_name(index), None if label is None else class_name(dataset.classes, label))
    file, label_name = (name and name[:MOST_CHARACTERS] for name in names)
    text_of: Callable[[int], str] | None = getattr(dataset, "text_of", None)  # only texts have one
    text = text_of(index)[:MOST_CHARACTERS] if text_of else None
    return SamplePreview(index, file, label, label_name, tuple(arrays), text)


def _array(name: str, array: Array, *, is_bgr: bool) -> ArrayPreview:
    finite = array[np.isfinite(array)].astype(np.float64) if array.dtype.kind in "biuf" else np.zeros(0)
    low, high, mean = (float(f(finite)) for f in (np.min, np.max, np.mean)) if finite.size else (None,) * 3
    first = [complex(value).real for value in array.ravel()[:MOST_VALUES]]
    return ArrayPreview(
        name=name,
        dtype=str(array.dtype),
        shape=array.shape,
        low=low,
        high=high,
        mean=mean,
        values=tuple(value if math.isfinite(value) else None for value in first),
        picture=_picture(array, is_bgr=is_bgr),
    )


def _picture(array: Array, *, is_bgr: bool) -> str | None:
    """A thumbnail of a uint8 array that looks like an image: [H, W], [H, W, C] or [C, H, W] with C 1 or 3."""
    pixels = _as_image(array)
    if pixels is None or not pixels.size:
        return None
    if is_bgr and pixels.ndim == COLOURS:
        pixels = pixels[..., ::-1]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    kind = "png" if max(image.size) <= LOSSLESS else "jpeg"
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _as_image(array: Array) -> Array | None:
    if array.dtype != np.uint8 or array.ndim not in {2, 3}:
        return None
    if array.ndim == 2:  # noqa: PLR2004 - height and width
        return array
    if array.shape[0] in {GREY, COLOURS}:
        array = array.transpose(1, 2, 0)
    if array.shape[-1] == GREY:
        return array[..., 0]
    return array if array.shape[-1] == COLOURS else None
