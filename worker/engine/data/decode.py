"""One image file: decoded within limits, or refused by its name."""

import io
import warnings

from PIL import Image

from app.domain.errors import Refused
from worker.engine.data.archive import BROKEN, Entry
from worker.engine.data.preprocess import MAX_PIXELS

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM")
WIDE_MODES = ("I", "F")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, TypeError)


def decoded(entry: Entry) -> Image.Image:
    """The image, all of it in memory.

    Raises:
        Refused: `broken_image`, `image_too_large` or `unsupported_image`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(content(entry)), formats=FORMATS)
            _check_depth(entry, image)
            image.load()
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            detail = (
                f"{entry.name!r} has over {Image.MAX_IMAGE_PIXELS} pixels, which is the limit; shrink it."
            )
            raise Refused("image_too_large", detail) from error
        except UNREADABLE as error:
            raise broken(entry, str(error)) from error
    return image


def _check_depth(entry: Entry, image: Image.Image) -> None:
    if image.mode.startswith(WIDE_MODES):
        detail = (
            f"{entry.name!r} has more than 8 bits per channel ({image.mode}); send 8-bit images or an npz."
        )
        raise Refused("unsupported_image", detail)


def size_of(entry: Entry) -> tuple[int, int]:
    """Width and height, from the header alone.

    Raises:
        Refused: `broken_image`.
    """
    try:
        return Image.open(io.BytesIO(content(entry)), formats=FORMATS).size
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise broken(entry, str(error)) from error


def content(entry: Entry) -> bytes:
    """The file's bytes.

    Raises:
        Refused: `broken_image`.
    """
    try:
        return entry.read(-1)
    except BROKEN as error:
        raise broken(entry, str(error)) from error


def broken(entry: Entry, why: str) -> Refused:
    """The refusal of a file that is no image, or not a whole one."""
    return Refused("broken_image", f"{entry.name!r} cannot be read: {why}. Replace it or leave it out.")
