"""How the output of an object detector is read: declared with a job, since no file says it."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from app.domain.recipe import FORBID_UNKNOWN


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """From an output to boxes: each row is a box's four numbers, then its scores.

    `scores` names a second output that holds the scores, a row for each box, where the first one holds four
    numbers alone.

    `boxes`: centre and size, two corners, or a corner and the size, in pixels of the input, or as shares of
    it when `normalized`. With `strides` they are YOLOX's raw ones: the input is covered by one grid of cells
    for each stride, row by row; a centre is (value + cell) * stride, a size exp(value) * stride.
    `objectness`: the fifth number, by which the class scores are multiplied; without it scores follow at
    once. `background`: the first or last score says that there is nothing, as in SSD and DETR. `transposed`:
    a column for each box, as in YOLOv8. With `logits` in the evaluation, scores go through a sigmoid first,
    or through a softmax where one is for the background.

    A box has the class that it scores best. Those below `min_score` are left out, and those that overlap a
    better one of their class by more than `nms_iou`; 1 keeps all, for models that do this themselves.
    `size` is the input's [height, width], taken from the first sample when left out.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    boxes: Literal["cxcywh", "xyxy", "xywh"] = "cxcywh"
    strides: tuple[int, ...] = field(default=(), metadata={"max_length": 8})
    scores: str | None = None
    objectness: bool = True
    background: Literal["first", "last"] | None = None
    normalized: bool = False
    transposed: bool = False
    min_score: float = field(default=0.001, metadata={"strict": True, "ge": 0, "le": 1})
    nms_iou: float = field(default=0.65, metadata={"strict": True, "ge": 0, "le": 1})
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Refuse grids and sizes of nothing, and to be told twice how sure it is that there is something."""
        if self.background and self.objectness:
            message = "a score for the background stands in for objectness; set objectness to false"
            raise ValueError(message)
        if not all(number > 0 for number in (*self.strides, *(self.size or ()))):
            message = "strides and size must be above 0"
            raise ValueError(message)
        if self.strides and (self.normalized or self.boxes != "cxcywh"):
            message = "strides are for boxes as cxcywh that are not normalized"
            raise ValueError(message)
