"""The first samples of a dataset as a person recognizes them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ArrayPreview:
    """One array of one sample, as it is before scale, mean and std.

    `low`, `high` and `mean` are of its finite values, null when there are none; `values` are the first ones
    in C order, null where not finite. `picture` is a data URI of a thumbnail when the array is an image:
    after resize and crop, at most 128 pixels wide and high, in RGB.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: float | None
    high: float | None
    mean: float | None
    values: tuple[float | None, ...]
    picture: str | None


@dataclass(frozen=True)
class SamplePreview:
    """One sample: its place, its file, its label, its text where it is one, and what is in it."""

    index: int
    name: str | None
    label: int | None
    label_name: str | None
    arrays: tuple[ArrayPreview, ...]
    text: str | None = None


@dataclass(frozen=True)
class Preview:
    """The first 8 samples of a dataset."""

    samples: tuple[SamplePreview, ...]
