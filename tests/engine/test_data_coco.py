"""Images with boxes in COCO's JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.dataset import Preprocess
from app.domain.errors import Refused
from tests.engine.test_data_images import picture
from tests.zips import zipped
from worker.engine.data import coco, open_dataset
from worker.engine.data.dataset import Dataset, summarize
from worker.engine.requests import Data

WIDE, TALL = picture(1, (20, 10)), picture(2, (10, 40))
COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [{"id": 5, "file_name": "a.png", "width": 20}, {"id": 9, "file_name": "b.png"}],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 90, "bbox": [0, 10, 5, 20], "iscrowd": 1, "area": 3},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [5, 0, 5, 40]},
    ],
    "categories": [{"id": 90, "name": "brush"}, {"id": 3, "name": "car"}],
}


def opened(folder: Path, found: Any = COCO, *, name: str = "annotations.json", **preprocess: Any) -> Dataset:
    files = {"val/a.png": WIDE, "val/b.png": TALL, name: json.dumps(found).encode()}
    (folder / "data").write_bytes(zipped(files))
    return open_dataset(Data(path=folder / "data", preprocess=Preprocess(**preprocess)))


def targets(dataset: Dataset) -> list[Any]:
    assert dataset.targets is not None
    return [np.asarray(dataset.targets[index]).tolist() for index in range(len(dataset))]


@pytest.mark.parametrize(
    "name", ["annotations.json", "val/_annotations.coco.json", "ann/instances_val2017.json"]
)
def test_classes_are_numbered_in_the_order_of_their_ids(tmp_path: Path, name: str) -> None:
    dataset = opened(tmp_path, name=name)

    assert dataset.classes == ("car", "brush")
    assert targets(dataset) == [[], [[0, 10, 5, 30, 1, 1], [5, 0, 10, 40, 0, 0]]]
    summary = summarize(dataset)
    assert summary.targets
    assert (summary.format, summary.labels, summary.targets.shape) == ("images", None, (None, 6))
    assert not summary.warnings


@pytest.mark.parametrize(
    ("preprocess", "expected"),
    [
        ({"resize": 20, "fit": "stretch"}, [[0, 5, 10, 15, 1, 1], [10, 0, 20, 20, 0, 0]]),
        ({"resize": 20, "fit": "short_side"}, [[0, 20, 10, 60, 1, 1], [10, 0, 20, 80, 0, 0]]),
        ({"resize": 80, "fit": "letterbox"}, [[30, 20, 40, 60, 1, 1], [40, 0, 50, 80, 0, 0]]),
        ({"size": [20, 40], "fit": "stretch"}, [[0, 5, 20, 15, 1, 1], [20, 0, 40, 20, 0, 0]]),
        ({"size": [20, 41], "fit": "letterbox"}, [[18, 5, 20.5, 15, 1, 1], [20.5, 0, 23, 20, 0, 0]]),
        ({"resize": 10, "crop": 4}, [[0, 0, 2, 4, 1, 1], [2, 0, 4, 4, 0, 0]]),
        ({"crop": 4}, [[0, 0, 2, 4, 1, 1], [2, 0, 4, 4, 0, 0]]),
    ],
)
def test_boxes_go_where_their_picture_goes(
    tmp_path: Path, preprocess: dict[str, Any], expected: list[list[float]]
) -> None:
    assert targets(opened(tmp_path, **preprocess))[1] == expected


def test_a_crop_that_leaves_nothing_of_a_box_leaves_it_out(tmp_path: Path) -> None:
    aside = COCO | {"annotations": [{"image_id": 5, "category_id": 3, "bbox": [0, 0, 2, 2]}]}

    assert targets(opened(tmp_path, aside, crop=8))[0] == []


def test_listed_images_that_are_not_there_are_told(tmp_path: Path) -> None:
    more = COCO | {"images": [*COCO["images"], {"id": 1, "file_name": "c.png"}]}

    assert opened(tmp_path, more).warnings == ("1 images of annotations.json are not in the archive.",)


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ({"images": COCO["images"][:1]}, "labels_mismatch", "'val/b.png' is not among the images"),
        ({"categories": COCO["categories"][:1]}, "broken_labels", "annotation 1 is of category 3"),
        ({"annotations": [{"image_id": 5, "category_id": 3, "bbox": [0, 0, 2]}]}, "broken_labels", "bbox/3"),
        (
            {"annotations": [{"image_id": 5, "category_id": 3, "bbox": [0, 0, -2, 1]}]},
            "broken_labels",
            "bbox/2",
        ),
        (
            {"annotations": [{"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1e999]}]},
            "broken_labels",
            "bbox",
        ),
        ({"annotations": "none"}, "broken_labels", "annotations"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Any], code: str, told: str
) -> None:
    with pytest.raises(Refused, match=told) as refusal:
        opened(tmp_path, COCO | change)
    assert refusal.value.code == code


def test_two_files_of_annotations_are_refused(tmp_path: Path) -> None:
    text = json.dumps(COCO).encode()
    (tmp_path / "data").write_bytes(zipped({"a.png": WIDE, "one.json": text, "two.json": text}))

    with pytest.raises(Refused, match=r"one\.json and two\.json") as refusal:
        open_dataset(Data(path=tmp_path / "data"))
    assert refusal.value.code == "labels_mismatch"


def test_annotations_that_are_too_large_or_cut_off_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = zipped({"a.png": WIDE, "coco.json": json.dumps(COCO).encode()[:-10]})
    (tmp_path / "cut").write_bytes(cut)
    with pytest.raises(Refused, match=r"coco\.json") as refusal:
        open_dataset(Data(path=tmp_path / "cut"))
    assert refusal.value.code == "broken_labels"

    monkeypatch.setattr(coco, "MAX_BYTES", 100)
    with pytest.raises(Refused, match="the limit for annotations is 100") as refusal:
        opened(tmp_path)
    assert refusal.value.code == "broken_labels"
