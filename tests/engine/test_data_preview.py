"""What a dataset's inspection finds: ranges, labels, pictures, and whether it fits as binding would say."""

import base64
import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from app.domain import fit
from app.domain.dataset import Preprocess
from app.domain.errors import Refused
from app.domain.preview import Preview
from app.domain.report import TensorInfo
from tests.engine.digits import classifier, digits, save_digits
from tests.factories import EXAMINATION
from worker.engine.data import Dataset, open_dataset
from worker.engine.data.arrays import ArrayDataset
from worker.engine.data.bind import Input, bind
from worker.engine.data.dataset import summarize
from worker.engine.data.preview import preview
from worker.engine.examine import examine
from worker.engine.requests import Data


def opened(folder: Path, **arrays: Any) -> Dataset:
    np.savez(folder / "data.npz", **arrays)
    return open_dataset(Data(path=folder / "data.npz"))


def picture(shown: Preview, index: int = 0) -> Image.Image:
    uri = shown.samples[index].arrays[0].picture
    assert uri is not None
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def zipped(folder: Path, image: Image.Image) -> Path:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr("a/ä 1.png", buffer.getvalue())
        archive.writestr("b/2.png", buffer.getvalue())
    return folder / "data.zip"


def test_the_first_8_samples_are_shown_with_label_and_values(tmp_path: Path) -> None:
    dataset = open_dataset(Data(path=save_digits(tmp_path / "digits")))

    shown = preview(dataset, Preprocess())

    images, labels = digits()
    assert [one.label for one in shown.samples] == labels[:8].tolist()
    first = shown.samples[0].arrays[0]
    assert (first.dtype, first.shape, first.low, first.high) == ("uint8", (8, 8), 0.0, 225.0)
    assert first.values == tuple(float(v) for v in images[0].ravel()[:8])
    assert np.array_equal(np.asarray(picture(shown)), images[0])


def test_an_image_is_shown_as_it_goes_in_small_and_in_its_own_colours(tmp_path: Path) -> None:
    spec = Preprocess(resize=256, crop=224, color="BGR")
    dataset = open_dataset(
        Data(path=zipped(tmp_path, Image.new("RGB", (400, 300), (250, 10, 10))), preprocess=spec)
    )

    shown = preview(dataset, spec)

    found = picture(shown)
    red, _, blue = found.convert("RGB").getpixel((64, 64))  # type: ignore[misc]
    assert (found.size, found.format) == ((128, 128), "JPEG")
    assert red > 200
    assert blue < 50
    assert [(one.name, one.label_name) for one in shown.samples] == [("a/ä 1.png", "a"), ("b/2.png", "b")]
    assert shown.samples[0].arrays[0].shape == (3, 224, 224)


def test_numbers_that_are_no_pictures_have_none_and_nan_is_null(tmp_path: Path) -> None:
    dataset = opened(tmp_path, x=np.array([[np.nan, 1.0], [np.nan, np.inf]]), flag=np.array(True))

    first, second = preview(dataset, Preprocess()).samples

    x, flag = first.arrays
    assert (x.values, x.low, x.mean, x.picture) == ((None, 1.0), 1.0, 1.0, None)
    assert (flag.shape, flag.values) == ((), (1.0,))
    assert (second.arrays[0].low, second.arrays[0].values) == (None, (None, None))


@dataclass(frozen=True)
class Worded(ArrayDataset):
    """Tokens, and the texts that they come from."""

    texts: tuple[str, ...] = ()

    def text_of(self, index: int) -> str:
        return self.texts[index]


def test_a_text_is_shown_as_its_beginning() -> None:
    tokens = {"input_ids": np.array([[1, 2], [3, 4]])}
    dataset = Worded(tokens, {}, {}, (1, 0), ("0", "1"), 2, texts=("good", "bad " * 300))

    shown = preview(dataset, Preprocess())

    assert [one.text for one in shown.samples] == ["good", ("bad " * 300)[:500]]


def test_a_summary_says_the_range_of_values_and_of_labels(tmp_path: Path) -> None:
    values = np.zeros((4, 3), np.float32)
    values[3] = [-2, np.nan, 7]

    summary = summarize(opened(tmp_path, x=values, labels=np.array([5, 5, 0, 9])))

    (x,) = summary.arrays
    assert (x.low, x.high, x.finite) == (-2.0, 7.0, False)
    assert (summary.label_range, summary.label_counts) == ((0, 9), {5: 2, 0: 1, 9: 1})


def test_an_examination_says_how_many_ids_a_table_has(tmp_path: Path) -> None:
    table = helper.make_tensor("table", TensorProto.FLOAT, [50, 2], [0.0] * 100)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 2])
    gather = helper.make_node("Gather", ["table", "ids"], ["y"])
    graph = helper.make_graph([gather], "a table", [ids], [y], [table])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "m.onnx")

    assert examine(tmp_path / "m.onnx").vocabularies == {"ids": 50}


SHAPES: list[tuple[tuple[int | str, ...], tuple[int, ...], str, str]] = [
    (("b", 3, 8, 8), (3, 8, 8), "float32", "float32"),
    (("b", 3, 8, 8), (3, 8, 8), "float64", "float32"),
    (("b", 3, 8, 8), (3, 8, 8), "int64", "float32"),
    (("b", 3, 8, 8), (3, 8, 8), "uint8", "float32"),
    (("b", 3, 8, 8), (8, 8, 3), "uint8", "float32"),
    (("b", 3, 8, 8), (8, 8, 3), "float32", "float32"),
    (("b", 1, 8, 8), (8, 8), "uint8", "float32"),
    (("b", 1, 8, 8), (64,), "uint8", "float32"),
    (("b", 4), (4,), "int32", "int64"),
    (("b", 4), (4,), "bool", "int8"),
    (("b", 4), (4,), "float32", "int64"),
    (("b", 4), (1, 4, 1), "float32", "float32"),
    ((1, 4), (4,), "float32", "float16"),
    (("b", "n"), (7,), "int64", "int32"),
    (("b",), (), "float32", "float32"),
    ((), (), "float32", "float32"),
    (("b", 4), (5,), "float32", "float32"),
    (("b", 2, 2), (4,), "float32", "float32"),
    (("b", "n", 1), (4,), "float32", "float32"),
]


@pytest.mark.parametrize(("wanted", "found", "dtype", "takes"), SHAPES)
def test_a_check_says_what_binding_will_say(
    tmp_path: Path, wanted: tuple[int | str, ...], found: tuple[int, ...], dtype: str, takes: str
) -> None:
    dataset = opened(tmp_path, x=np.ones((3, *found), dtype))
    axes = tuple(size if isinstance(size, int) else None for size in wanted)
    model = replace(EXAMINATION, inputs=(TensorInfo("x", takes, wanted),))

    answer = fit.check(model, summarize(dataset), Preprocess(), fit.Question())
    try:
        bind([Input("x", np.dtype(takes), takes, axes)], dataset, Preprocess(), None)
    except Refused:
        binds = False
    else:
        binds = True

    assert answer.fits is binds


def test_the_digits_fit_their_classifier(tmp_path: Path) -> None:
    onnx.save(classifier(), tmp_path / "m.onnx")
    dataset = open_dataset(Data(path=save_digits(tmp_path / "digits")))

    answer = fit.check(
        examine(tmp_path / "m.onnx"), summarize(dataset), Preprocess(), fit.Question(metric="top1")
    )

    assert (answer.fits, answer.findings) == (True, ())
    assert answer.decidable is not None
    assert answer.decidable.samples == 1797 - 128
