"""Images with a mask each."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.domain.dataset import Preprocess
from app.domain.errors import Refused
from tests.engine.test_data_images import picture
from tests.zips import zipped
from worker.engine.data import open_dataset
from worker.engine.data.dataset import Dataset, summarize
from worker.engine.requests import Data

NUMBERS = np.array([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [3, 3, 3, 3, 3, 3], [255] * 6], np.uint8)


def png(array: np.ndarray, *, palette: bool = False) -> bytes:
    image = Image.fromarray(array)
    if palette:
        image.putpalette([*range(256)] * 3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


FILES = {"images/1.jpg": picture(1, kind="JPEG"), "masks/1.png": png(NUMBERS)}


def opened(folder: Path, files: dict[str, bytes] = FILES, **preprocess: Any) -> Dataset:
    (folder / "data").write_bytes(zipped(files))
    return open_dataset(Data(path=folder / "data", preprocess=Preprocess(**preprocess)))


def mask(dataset: Dataset) -> Any:
    assert dataset.targets is not None
    return np.asarray(dataset.targets[0]).tolist()


@pytest.mark.parametrize("palette", [False, True])
def test_a_mask_has_a_class_number_for_each_pixel_and_255_is_none(tmp_path: Path, palette: bool) -> None:
    dataset = opened(tmp_path, FILES | {"masks/1.png": png(NUMBERS, palette=palette)})

    assert mask(dataset) == [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [3] * 6, [-1] * 6]
    summary = summarize(dataset)
    assert summary.targets
    assert (summary.samples, summary.labels) == (1, None)
    assert (summary.targets.dtype, summary.targets.shape) == ("int16", (4, 6))


def test_masks_are_resized_by_nearest_neighbours_and_padded_with_nothing(tmp_path: Path) -> None:
    doubled = mask(opened(tmp_path, resize=8))
    boxed = mask(opened(tmp_path, resize=6, fit="letterbox", interpolation="bicubic"))
    cropped = mask(opened(tmp_path, crop=8))

    assert doubled[0] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert boxed[0] == boxed[-1] == [-1] * 6
    assert boxed[1:5] == mask(opened(tmp_path))
    assert cropped[2] == [-1, 0, 0, 1, 1, 2, 2, -1]


def test_folders_below_images_and_masks_are_the_same(tmp_path: Path) -> None:
    files = {"set/images/a/1.jpg": FILES["images/1.jpg"], "set/masks/a/1.png": FILES["masks/1.png"]}

    assert len(opened(tmp_path, files)) == 1


@pytest.mark.parametrize(
    "more", [{"images/2.jpg": FILES["images/1.jpg"]}, {"masks/2.png": FILES["masks/1.png"]}]
)
def test_an_image_without_mask_and_a_mask_without_image_are_refused(
    tmp_path: Path, more: dict[str, bytes]
) -> None:
    with pytest.raises(Refused, match="has no mate") as refusal:
        opened(tmp_path, FILES | more)
    assert refusal.value.code == "labels_mismatch"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (picture(1), "unsupported_image"),
        (png(NUMBERS[:3]), "labels_mismatch"),
        (png(NUMBERS)[:-30], "broken_image"),
        (png(NUMBERS.astype(np.uint16)), "unsupported_image"),
    ],
)
def test_a_mask_that_is_none_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    with pytest.raises(Refused) as refusal:
        summarize(opened(tmp_path, FILES | {"masks/1.png": content}))
    assert refusal.value.code == code
