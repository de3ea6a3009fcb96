"""Data for calibration and evaluation: how pixels become input values, and how samples are split."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from app.domain.recipe import FORBID_UNKNOWN

LONGEST_SIDE = 8192  # pixels


@dataclass(frozen=True, kw_only=True)
class Text:
    """From a text to a model's ids, by the tokenizer in the dataset.

    Longer texts are cut off after `max_length` tokens: the tokenizer's own limit when left out, else 512.
    `longest` pads to the longest text of one run, so not at all when texts run one by one; `max_length` pads
    to that. A model with inputs of a fixed length gets that length.

    Running text is cut into windows of `max_length` tokens that begin every `stride` tokens: half a window
    when left out. A table's texts are running text where `stride` is given, else one sample each.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    max_length: int | None = field(default=None, metadata={"strict": True, "ge": 2, "le": 32_768})
    padding: Literal["longest", "max_length"] = "longest"
    stride: int | None = field(default=None, metadata={"strict": True, "ge": 1, "le": 32_768})

    def __post_init__(self) -> None:
        """Refuse windows that leave tokens out."""
        if self.stride and self.max_length and self.stride > self.max_length:
            message = "stride must not exceed max_length, or the tokens between windows are never scored"
            raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From a decoded image (or a uint8 array) to a model's input; `text` is for texts, the rest for pixels.

    A value becomes `(pixel * scale - mean) / std`; mean and std are in output channel order.
    Images are decoded by Pillow and resized with antialiasing; EXIF orientation is ignored. `size`, [height,
    width], takes the place of `resize` for inputs that are not square, with `fit` stretch or letterbox.
    Arrays are not resized or cropped: scale, mean and std apply to uint8 ones, and [H, W, C] becomes
    [C, H, W] where only that fits the input.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    resize: int | None = field(default=None, metadata={"strict": True, "ge": 1, "le": LONGEST_SIDE})
    size: tuple[int, int] | None = None
    crop: int | None = field(default=None, metadata={"strict": True, "ge": 1, "le": LONGEST_SIDE})
    fit: Literal["short_side", "stretch", "letterbox"] = "short_side"
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    color: Literal["RGB", "BGR", "GRAY", "Y"] = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = field(default=(0.0,), metadata={"min_length": 1, "max_length": 4})
    std: tuple[float, ...] = field(default=(1.0,), metadata={"min_length": 1, "max_length": 4})
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    text: Text = field(default_factory=Text)

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by, and two sizes at once."""
        if 0 in self.std:
            message = "std must not be 0"
            raise ValueError(message)
        if self.size and not all(1 <= side <= LONGEST_SIDE for side in self.size):
            message = f"size must lie between 1 and {LONGEST_SIDE}"
            raise ValueError(message)
        if self.size and (self.resize or self.fit == "short_side"):
            message = "size takes the place of resize, with fit stretch or letterbox"
            raise ValueError(message)


PRESETS: dict[str, Preprocess] = {
    "imagenet": Preprocess(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "unit": Preprocess(),
    "signed": Preprocess(scale=1 / 127.5, mean=(1.0,)),
    "raw": Preprocess(scale=1.0),
}
RUNNING_TEXT = "running_text"  # the format whose samples are windows over whole documents
DEFAULT_CALIBRATION_SAMPLES = 128
CALIBRATION_SHARE = 5


def calibration_share(samples: int, wanted: int | None = None) -> int:
    """How many samples of a dataset calibrate when it serves both uses: 128 or `wanted`, at most a fifth."""
    return max(1, min(wanted or DEFAULT_CALIBRATION_SAMPLES, samples // CALIBRATION_SHARE))
