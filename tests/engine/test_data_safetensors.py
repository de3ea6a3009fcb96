"""Datasets in safetensors files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from app.domain.errors import Refused
from worker.engine.data import open_dataset
from worker.engine.data.arrays import ArrayDataset
from worker.engine.data.dataset import summarize
from worker.engine.requests import Data

ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def write(path: Path, **tensors: Any) -> Data:
    save_file({name: np.asarray(array) for name, array in tensors.items()}, path)
    return Data(path=path)


def framed(path: Path, header: Any, body: bytes = b"1234") -> Data:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return Data(path=path)


def test_names_axes_labels_and_constants_are_those_of_an_npz(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 3, 2)

    dataset = open_dataset(write(tmp_path / "data", x=x, rate=np.int64(16), labels=[3, 1, 2, 0]))

    assert np.array_equal(dataset.sample(2)["x"], x[2])
    assert dataset.sample(2)["rate"] == 16
    assert dataset.labels == (3, 1, 2, 0)
    summary = summarize(dataset)
    assert (summary.format, summary.samples) == ("safetensors", 4)
    assert [(a.name, a.shape, a.high) for a in summary.arrays] == [("x", (3, 2), 23), ("rate", (), 16)]


def test_a_sample_is_read_without_the_others(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path / "data", x=np.zeros((5, 1000), np.float32)))

    assert isinstance(dataset, ArrayDataset)
    assert not isinstance(dataset.stacked["x"], np.ndarray)
    assert dataset.sample(4)["x"].shape == (1000,)


def test_the_same_content_has_the_hash_that_it_has_in_an_npz(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(tmp_path / "data.npz", x=x)

    hashes = [
        open_dataset(data).content_hash(1)
        for data in (write(tmp_path / "data", x=x), Data(path=tmp_path / "data.npz"))
    ]

    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_values_that_arrays_cannot_hold_are_refused(tmp_path: Path, dtype: str) -> None:
    size = {"BF16": 2, "F8_E4M3": 4}[dtype]
    data = framed(tmp_path / "data", {"x": {"dtype": dtype, "shape": [size], "data_offsets": [0, 4]}})

    with pytest.raises(Refused, match=f"'x' holds {dtype}") as refusal:
        open_dataset(data)

    assert refusal.value.code == "unsupported_array"


@pytest.mark.parametrize(
    "header",
    [
        {"x": ONE | {"shape": [2**40], "data_offsets": [0, 2**42]}},
        {"x": ONE | {"shape": [2]}},
        {"x": ONE | {"shape": [-1]}},
        {"x": ONE | {"shape": [2**33, 2**33]}},
        {"x": ONE, "y": ONE},
        {"x": ONE | {"data_offsets": [4, 8]}},
        {"x": ONE | {"dtype": "OBJECT"}},
        {"x": "no tensor"},
        {},
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any) -> None:
    with pytest.raises(Refused) as refusal:
        open_dataset(framed(tmp_path / "data", header))

    assert refusal.value.code == "broken_array"


def test_a_file_that_was_cut_off_or_nests_without_end_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "data", x=np.zeros((5, 100), np.float32)).path.read_bytes()
    deep = b'{"a":' + b"[" * 100_000
    contents = {"cut": whole[:-100], "deep": len(deep).to_bytes(8, "little") + deep}

    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Refused) as refusal:
            open_dataset(Data(path=tmp_path / name))
        assert refusal.value.code == "broken_array"


def test_a_header_longer_than_the_file_is_no_safetensors(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes((2**40).to_bytes(8, "little") + b"{}")

    with pytest.raises(Refused) as refusal:
        open_dataset(Data(path=tmp_path / "data"))

    assert refusal.value.code == "unknown_data_format"
