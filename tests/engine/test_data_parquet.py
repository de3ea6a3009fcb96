"""Parquet: images with labels, masks or objects, and texts beside their tokenizer."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arro3.core import DataType
from PIL import Image

from app.domain.dataset import Preprocess
from app.domain.errors import Refused
from tests.engine.parquets import BYTES, Column, files, objects, parquet, plain
from tests.engine.texts import tokenizer
from tests.zips import zipped
from worker.engine.data import archive, open_dataset
from worker.engine.data.dataset import Dataset, summarize
from worker.engine.data.preview import preview
from worker.engine.requests import Data

INT, TEXT = DataType.int64(), DataType.string()


def picture(shade: int, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, shade if mode == "L" else (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [picture(shade) for shade in (10, 20, 30)]


def opened(path: Path, **preprocess: Any) -> Dataset:
    return open_dataset(Data(path=path, preprocess=Preprocess(**preprocess)))


def refusal(path: Path) -> Refused:
    with pytest.raises(Refused) as refused:
        summarize(opened(path))
    return refused.value


def targets(dataset: Dataset) -> list[Any]:
    assert dataset.targets is not None
    return [np.asarray(dataset.targets[index]).tolist() for index in range(len(dataset))]


def test_images_and_class_numbers_with_their_names(tmp_path: Path) -> None:
    columns = {"image": files(PICTURES), "label": plain([1, 0, 1], INT), "id": plain([7, 8, 9], INT)}

    dataset = opened(parquet(tmp_path / "data", columns, names=["zebra", "ant"]))

    assert (dataset.labels, dataset.classes) == ((1, 0, 1), ("zebra", "ant"))
    assert dataset.sample(1)["image"][:, 0, 0].tolist() == [20, 0, 0]
    assert dataset.file_name(2) == "2.png"
    summary = summarize(dataset)
    assert (summary.format, summary.samples, summary.labels) == ("images", 3, 3)


@pytest.mark.parametrize(
    "compression", ["uncompressed", "snappy", "gzip(6)", "zstd(3)", "brotli(3)", "lz4_raw"]
)
def test_more_rows_than_are_read_at_once_in_any_compression(tmp_path: Path, compression: str) -> None:
    columns = {"img": plain([picture(n) for n in range(40)], BYTES), "label": plain(list("ab") * 20, TEXT)}

    dataset = opened(parquet(tmp_path / "data", columns, compression=compression, max_row_group_size=16))

    assert [int(dataset.sample(n)["image"][0, 0, 0]) for n in range(40)] == list(range(40))
    assert dataset.classes == ("a", "b")


def test_a_label_that_is_a_fraction_is_a_target(tmp_path: Path) -> None:
    columns = {"image": files(PICTURES), "label": plain([0.5, 10.0, 2.25], DataType.float64())}

    dataset = opened(parquet(tmp_path / "data", columns))

    assert dataset.labels is None
    assert targets(dataset) == [0.5, 10.0, 2.25]


def test_whole_numbers_in_a_column_of_fractions_are_classes(tmp_path: Path) -> None:
    columns = {"image": files(PICTURES), "label": plain([2.0, 10.0, None], DataType.float64())}

    assert opened(parquet(tmp_path / "data", columns)).labels == (2, 10, None)


def test_a_second_image_is_the_mask(tmp_path: Path) -> None:
    masks = [picture(shade, "L") for shade in (0, 1, 255)]
    columns = {"image": files(PICTURES), "annotation": files(masks)}

    dataset = opened(parquet(tmp_path / "data", columns))

    assert dataset.labels is None
    assert [np.unique(mask).tolist() for mask in targets(dataset)] == [[0], [1], [-1]]


def test_objects_are_boxes_of_left_top_width_and_height(tmp_path: Path) -> None:
    boxes = [[[1, 1, 2, 2], [0, 0, 6, 4]], [], [[2, 1, 4, 3]]]
    columns = {"image": files(PICTURES), "objects": objects(boxes, [[3, 0], [], [1]])}

    dataset = opened(parquet(tmp_path / "data", columns), resize=8, fit="short_side")

    assert targets(dataset) == [
        [[2, 2, 6, 6, 3, 0], [0, 0, 12, 8, 0, 0]],
        [],
        [[4, 2, 12, 8, 1, 0]],
    ]
    info = summarize(dataset).targets
    assert info
    assert info.shape == (None, 6)


def test_texts_are_read_beside_their_tokenizer(tmp_path: Path) -> None:
    columns = {"text": plain(["a b", "b", "c"], TEXT), "label": plain([1, 0, 1], INT)}
    table = parquet(tmp_path / "table", columns).read_bytes()
    (tmp_path / "data").write_bytes(zipped({"train.parquet": table, "tokenizer.json": tokenizer().encode()}))

    dataset = opened(tmp_path / "data")

    assert (dataset.format, len(dataset), dataset.labels) == ("text", 3, (1, 0, 1))


def test_texts_without_their_tokenizer_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "data", {"text": plain(["a"], TEXT)})

    assert refusal(path).code == "tokenizer_missing"


def in_archive(folder: Path, column: Column) -> Path:
    table = parquet(folder / "table", {"text": column}).read_bytes()
    (folder / "data").write_bytes(zipped({"train.parquet": table, "tokenizer.json": tokenizer().encode()}))
    return folder / "data"


def test_a_nested_column_of_texts_is_refused(tmp_path: Path) -> None:
    found = refusal(in_archive(tmp_path, files([b"a"])))

    assert (found.code, found.errors[0].pointer) == ("unsupported_column", "/columns/text")


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    assert refusal(in_archive(tmp_path, plain([], TEXT))).code == "empty_dataset"
    assert refusal(parquet(tmp_path / "none", {"image": files([])})).code == "empty_dataset"


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"picture": plain(["a.png"], TEXT), "label": plain([1], INT)}, "column_missing"),
        ({"a": files(PICTURES[:1]), "b": files(PICTURES[:1])}, "column_missing"),
        ({"image": files(PICTURES[:1]), "label": objects([[]], [[]])}, "unsupported_column"),
        ({"image": files(PICTURES[:1]), "objects": plain([1], INT)}, "unsupported_column"),
        ({"image": files([None])}, "broken_image"),
        ({"image": files([b"no picture"])}, "broken_image"),
        ({"image": files(PICTURES[:1]), "mask": files([picture(0, "L", (3, 3))])}, "labels_mismatch"),
        ({"image": files(PICTURES[:1]), "mask": files(PICTURES[:1])}, "unsupported_image"),
        ({"image": files(PICTURES[:1]), "objects": objects([[[0, 0, 1, 1]]], [[0, 1]])}, "broken_labels"),
    ],
)
def test_columns_that_hold_something_else_are_refused(
    tmp_path: Path, columns: dict[str, Column], code: str
) -> None:
    assert refusal(parquet(tmp_path / "data", columns)).code == code


def test_one_picture_repeated_without_end_is_refused(tmp_path: Path) -> None:
    """A dictionary writes it once, so 200 kB of file claim 20 MB and more."""
    noise = np.random.default_rng(0).integers(0, 256, 50_000, np.uint8).tobytes()
    columns = {"image": plain([noise] * 500, BYTES)}

    path = parquet(tmp_path / "data", columns, dictionary_page_size_limit=10**6)

    assert path.stat().st_size < 200_000
    assert refusal(path).code == "archive_too_large"


def test_more_rows_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.data.parquet.MAX_ENTRIES", 2)

    assert refusal(parquet(tmp_path / "data", {"image": files(PICTURES)})).code == "archive_too_large"


def spoiled(whole: bytes) -> Sequence[bytes]:
    """Cut off, without a footer, with a footer longer than the file, and with bytes of a page overwritten."""
    longer = whole[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1"
    return whole[:-9], whole[:20], b"PAR1", longer, whole[:4] + b"\xff" * 60 + whole[64:]


@pytest.mark.parametrize("case", range(5))
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, case: int) -> None:
    whole = parquet(tmp_path / "whole", {"image": files(PICTURES)}).read_bytes()
    (tmp_path / "data").write_bytes(spoiled(whole)[case])

    assert refusal(tmp_path / "data").code == "broken_parquet"


def test_what_is_unpacked_is_bounded_for_texts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "RATIO_MATTERS_ABOVE", 1000)
    path = in_archive(tmp_path, plain(["a" * 5000] * 1000, TEXT))

    assert refusal(path).code == "archive_too_large"


def test_long_names_of_files_and_classes_do_not_fill_the_preview(tmp_path: Path) -> None:
    columns = {"image": files(PICTURES, ["a" * 5000] * 3), "label": plain([0, 0, 0], INT)}
    dataset = opened(parquet(tmp_path / "data", columns, names=["b" * 5000]))

    (first, *_) = preview(dataset, Preprocess()).samples

    assert len(first.name or "") == len(first.label_name or "") == 500
