"""What configurations of image processors come to."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.domain.dataset import PRESETS, Preprocess
from app.domain.errors import Refused
from worker.engine.data import open_dataset
from worker.engine.data.bind import Input
from worker.engine.data.preprocessor_config import read_config
from worker.engine.data.source import open_source
from worker.engine.requests import Data

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
VIT = {
    "do_resize": True,
    "size": {"height": 224, "width": 288},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
CLIP = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
    "image_mean": MEAN,
    "image_std": STD,
}
CONVNEXT = {
    "size": {"shortest_edge": 224},
    "crop_pct": 0.875,
    "resample": 3,
    "image_mean": MEAN,
    "image_std": STD,
}
OLD = {
    "size": 256,
    "crop_size": 224,
    "do_center_crop": True,
    "resample": 2,
    "image_mean": MEAN,
    "image_std": STD,
}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (VIT, Preprocess(size=(224, 288), fit="stretch", mean=(0.5,) * 3, std=(0.5,) * 3)),
        (CLIP, Preprocess(resize=224, crop=224, interpolation="bicubic", mean=tuple(MEAN), std=tuple(STD))),
        (
            CONVNEXT,
            Preprocess(resize=256, crop=224, interpolation="bicubic", mean=tuple(MEAN), std=tuple(STD)),
        ),
        (OLD, PRESETS["imagenet"]),
        ({**VIT, "do_resize": False, "do_normalize": False, "do_rescale": False}, Preprocess(scale=1.0)),
        ({}, Preprocess()),
    ],
)
def test_configurations_come_to_a_preprocessing(config: dict[str, Any], expected: Preprocess) -> None:
    assert read_config(json.dumps(config).encode()) == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps({"crop_size": {"height": 200, "width": 300}}).encode(), "200 × 300 is not square"),
        (json.dumps({"size": {"height": 200, "width": 9000}}).encode(), "between 1 and 8192"),
        (json.dumps({"size": 10**9}).encode(), "less than or equal to 8192"),
        (json.dumps({"size": 224, "resample": 5}).encode(), "resample 5"),
        (json.dumps({"size": {"shortest_edge": 224}, "crop_pct": 0}).encode(), "division"),
        (json.dumps({"do_normalize": True}).encode(), "image_mean"),
        (b"[1]", "cannot be followed"),
        (b"{", "cannot be followed"),
        (b"\xff\xfe", "cannot be followed"),
    ],
)
def test_what_cannot_be_followed_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(Refused) as refused:
        read_config(content)

    assert refused.value.code == "unsupported_preprocessor"
    assert says in refused.value.detail


def packed(path: Path, config: dict[str, Any]) -> Path:
    picture = io.BytesIO()
    Image.new("RGB", (40, 20), (255, 0, 0)).save(picture, "PNG")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", picture.getvalue())
        archive.writestr("preprocessor_config.json", json.dumps(config))
    return path


def test_a_bundled_configuration_is_followed_down_to_the_input(tmp_path: Path) -> None:
    data = Data(path=packed(tmp_path / "data", {**VIT, "size": {"height": 8, "width": 8}}))
    item = Input("pixel_values", np.dtype(np.float32), "tensor(float)", (None, 3, 8, 8))

    made = next(open_source(data, [item], [0]).feeds())["pixel_values"]

    assert made[0, :, 0, 0] == pytest.approx([1, -1, -1])
    assert any("preprocessor_config.json" in warning for warning in open_dataset(data).warnings)


def test_a_preprocessing_that_is_given_goes_first(tmp_path: Path) -> None:
    given = Preprocess(resize=4, crop=4)
    dataset = open_dataset(Data(path=packed(tmp_path / "data", VIT), preprocess=given))

    assert dataset.sample(0)["image"].shape == (3, 4, 4)
    assert not any("preprocessor_config.json" in warning for warning in dataset.warnings)
