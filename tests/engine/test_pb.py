"""Test data of the ONNX zoo: tensors by place, and what is no tensor."""

import io
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from app.domain.dataset import Preprocess
from app.domain.errors import Refused
from worker.engine.data import open_dataset
from worker.engine.data.bind import Input, bind, feed
from worker.engine.data.dataset import Dataset, summarize
from worker.engine.requests import Data

STRINGS = onnx.TensorProto(data_type=onnx.TensorProto.STRING, dims=[1], string_data=[b"a"])


def packed(path: Path, files: dict[str, bytes]) -> Dataset:
    with tarfile.open(path / "data", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return open_dataset(Data(path=path / "data"))


def tensor(values: np.ndarray, name: str = "") -> bytes:
    content: bytes = numpy_helper.from_array(values, name).SerializeToString()
    return content


def wanted(name: str, *shape: int | None) -> Input:
    return Input(name, np.dtype(np.float32), "tensor(float)", shape)


def test_sets_are_samples_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    files = {
        f"m/test_data_set_{i}/input_0.pb": tensor(np.full((1, 2), i, np.float32), "x") for i in (0, 2, 10)
    }

    dataset = packed(tmp_path, {"m/model.onnx": b"model", **files})

    assert [dataset.sample(i)["x"].tolist() for i in range(3)] == [[[0, 0]], [[2, 2]], [[10, 10]]]
    summary = summarize(dataset)
    assert (summary.format, summary.samples, summary.arrays[0].shape) == ("pb", 3, (1, 2))


def test_tensors_without_names_feed_inputs_by_their_place(tmp_path: Path) -> None:
    files = {f"test_data_set_0/input_{k}.pb": tensor(np.full((1, 2), k, np.float32)) for k in (0, 1)}
    dataset = packed(tmp_path, files)

    binding = bind([wanted("b", 1, 2), wanted("a", None, 2)], dataset, Preprocess(), None)
    made = feed(binding, [dataset.sample(0)])

    assert made["b"].tolist() == [[0, 0]]
    assert made["a"].tolist() == [[1, 1]]


def test_tensors_named_as_inputs_feed_those(tmp_path: Path) -> None:
    values = {"b": 1, "a": 2}
    files = {
        f"test_data_set_0/input_{k}.pb": tensor(np.full((1, 2), v, np.float32), n)
        for k, (n, v) in enumerate(values.items())
    }
    dataset = packed(tmp_path, files)

    made = feed(
        bind([wanted("a", 1, 2), wanted("b", 1, 2)], dataset, Preprocess(), None), [dataset.sample(0)]
    )

    assert made["a"].tolist() == [[2, 2]]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\xff\xff no protobuf", "broken_tensor"),
        (STRINGS.SerializeToString(), "unsupported_array"),
        (numpy_helper.from_list([np.zeros(2)], "x").SerializeToString(), None),
        (onnx.TensorProto(data_type=1, dims=[2, 3], raw_data=bytes(8)).SerializeToString(), "broken_tensor"),
    ],
)
def test_what_is_no_tensor_of_numbers_is_refused(tmp_path: Path, content: bytes, code: str | None) -> None:
    with pytest.raises(Refused) as refused:
        packed(tmp_path, {"test_data_set_0/input_0.pb": content})

    assert refused.value.code in ({code} if code else {"broken_tensor", "unsupported_array"})
    assert "test_data_set_0/input_0.pb" in refused.value.detail


def test_a_set_without_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        packed(tmp_path, {"test_data_set_3/output_0.pb": tensor(np.zeros(2, np.float32))})

    assert refused.value.code == "empty_dataset"
