"""Datasets in AI Hub's HDF5 layout."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from app.domain.errors import Refused
from tests.engine import hdf5s
from tests.engine.hdf5s import PIXELS, write
from worker.engine.data import open_dataset
from worker.engine.data.dataset import summarize
from worker.engine.requests import Data


def test_each_batch_is_a_sample_in_the_inputs_shape(tmp_path: Path) -> None:
    masks = [np.ones((1, n + 1), np.int64) for n in range(5)]

    dataset = open_dataset(write(tmp_path / "data", {"x": list(PIXELS), "mask": masks}))

    assert len(dataset) == 5
    assert np.array_equal(dataset.sample(3)["x"], PIXELS[3])
    assert dataset.sample(3)["mask"].shape == (1, 4)
    summary = summarize(dataset)
    assert (summary.format, summary.samples) == ("h5", 5)
    assert [(a.name, a.dtype, a.shape, a.high) for a in summary.arrays] == [
        ("mask", "int64", (1, None), 1),
        ("x", "float32", (1, 3, 4), 59),
    ]


def test_over_ten_batches_keep_their_order(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path / "data", {"x": [np.full((1, 2), n) for n in range(12)]}))

    assert [int(dataset.sample(n)["x"][0, 0]) for n in range(12)] == list(range(12))


def test_an_input_called_labels_holds_classes_or_targets(tmp_path: Path) -> None:
    classes = write(tmp_path / "a", {"x": list(PIXELS), "labels": [np.array([n % 2]) for n in range(5)]})
    boxes = [np.zeros((n, 5), np.float32) for n in range(5)]
    targets = write(tmp_path / "b", {"x": list(PIXELS), "labels": boxes})

    assert open_dataset(classes).labels == (0, 1, 0, 1, 0)
    info = summarize(open_dataset(targets)).targets
    assert info
    assert (info.dtype, info.shape) == ("float32", (None, 5))


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (hdf5s.linked, "unsafe_archive"),
        (hdf5s.soft, "unsafe_archive"),
        (hdf5s.raw, "unsafe_archive"),
        (hdf5s.virtual, "unsafe_archive"),
        (hdf5s.vast, "archive_too_large"),
        (hdf5s.chunky, "archive_too_large"),
        (hdf5s.many_zeros, "archive_too_large"),
        (hdf5s.strings, "unsupported_array"),
        (hdf5s.nested, "unsupported_array"),
        (hdf5s.unnamed, "unknown_data_format"),
        (hdf5s.skipped, "unknown_data_format"),
        (hdf5s.renamed, "unknown_data_format"),
        (hdf5s.twice, "unknown_data_format"),
        (hdf5s.nameless, "unknown_data_format"),
        (hdf5s.without_space, "unsupported_array"),
    ],
)
def test_what_is_hostile_or_laid_out_otherwise_is_refused(
    tmp_path: Path, harm: Callable[[h5py.File], None], code: str
) -> None:
    data = write(tmp_path / "data", {"x": list(PIXELS)})
    with h5py.File(data.path, "a") as file:
        harm(file)

    with pytest.raises(Refused) as refusal:
        open_dataset(data)

    assert refusal.value.code == code


def test_inputs_of_different_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="mask has 4, x has 5") as refusal:
        open_dataset(write(tmp_path / "data", {"x": list(PIXELS), "mask": list(PIXELS[:4])}))

    assert refusal.value.code == "unequal_lengths"


def test_a_file_that_was_cut_off_or_spoiled_is_refused(tmp_path: Path) -> None:
    whole = write(
        tmp_path / "data", {"x": [np.random.default_rng(0).normal(size=(1, 500))] * 3}
    ).path.read_bytes()
    cut, spoiled = tmp_path / "cut", tmp_path / "spoiled"
    cut.write_bytes(whole[: len(whole) // 2])
    at = whole.index(b"\x78\x5e" if b"\x78\x5e" in whole else b"\x78\x9c")  # where a chunk in zlib begins
    spoiled.write_bytes(whole[: at + 20] + bytes(200) + whole[at + 220 :])

    for path in (cut, spoiled):
        with pytest.raises(Refused) as refusal:
            summarize(open_dataset(Data(path=path)))
        assert refusal.value.code == "broken_array"
