"""Datasets of arrays: npz and npy."""

import io
import mmap
import resource
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.errors import Refused
from worker.engine.data import npz, open_dataset
from worker.engine.data.dataset import blocks, summarize
from worker.engine.requests import Data

Save = Callable[..., None]


def open_arrays(folder: Path, /, **arrays: Any) -> Any:
    return open_saved(folder, np.savez, arrays)


def open_saved(folder: Path, save: Save, arrays: Mapping[str, Any]) -> Any:
    with (folder / "data").open("wb") as file:
        save(file, **arrays)
    return open_dataset(Data(path=folder / "data"))


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_member(path: Path, content: bytes, name: str = "x.npy", compress: int = zipfile.ZIP_STORED) -> Data:
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr(name, content)
    return Data(path=path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_axis_0_is_samples_and_the_values_come_back(tmp_path: Path, save: Save) -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)

    dataset = open_saved(tmp_path, save, {"x": x, "labels": np.array([3, 1, 2, 0])})

    assert len(dataset) == 4
    assert np.array_equal(dataset.sample(2)["x"], x[2])
    assert dataset.labels == (3, 1, 2, 0)


def test_stored_arrays_are_mapped_and_not_read(tmp_path: Path) -> None:
    dataset = open_arrays(tmp_path, x=np.zeros((5, 1000), np.float32))

    assert isinstance(dataset.stacked["x"].base, mmap.mmap)


def test_fortran_order_keeps_its_values(tmp_path: Path) -> None:
    x = np.asfortranarray(np.arange(12.0).reshape(3, 4))

    assert np.array_equal(open_arrays(tmp_path, x=x).sample(1)["x"], x[1])


def test_0d_arrays_are_in_every_sample(tmp_path: Path) -> None:
    dataset = open_arrays(tmp_path, x=np.zeros((3, 2)), rate=np.int64(16000))

    assert [int(dataset.sample(i)["rate"]) for i in range(3)] == [16000] * 3


def test_ragged_samples_are_numbered_members(tmp_path: Path) -> None:
    arrays = {f"x/{i:06}": np.full((i + 1, 2), i, np.float32) for i in range(12)}

    dataset = open_arrays(tmp_path, **arrays)

    assert [dataset.sample(i)["x"].shape for i in range(12)] == [(i + 1, 2) for i in range(12)]
    assert summarize(dataset).arrays[0].shape == (None, 2)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_ragged_samples_need_no_descriptor_each(tmp_path: Path, save: Save) -> None:
    open_saved(tmp_path, save, {"x/000000": np.zeros(1)})  # what is imported on the way opens files too
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(list(Path("/dev/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (held + 20, hard))
    try:
        dataset = open_saved(tmp_path, save, {f"x/{i:06}": np.full(1 + i % 2, i) for i in range(60)})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))

    assert [int(dataset.sample(i)["x"][0]) for i in range(60)] == list(range(60))


def test_a_plain_npy_is_one_array_whatever_its_file_is_called(tmp_path: Path) -> None:
    (tmp_path / "data.jpeg").write_bytes(npy(np.zeros((7, 2), np.float32)))

    assert len(open_dataset(Data(path=tmp_path / "data.jpeg"))) == 7


def test_labels_that_are_names_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    dataset = open_arrays(tmp_path, x=np.zeros((3, 1)), labels=np.array(["dog", "cat", "dog"]))

    assert dataset.labels == (1, 0, 1)
    assert dataset.classes == ("cat", "dog")


@pytest.mark.parametrize("names", [["10", "9_5"], ["0.5", "cat"], ["1" * 19, "2"]])
def test_labels_that_are_not_all_numbers_are_names(tmp_path: Path, names: list[str]) -> None:
    dataset = open_arrays(tmp_path, x=np.zeros((2, 1)), labels=np.array(names))

    assert (dataset.labels, dataset.classes) == ((0, 1), tuple(names))


def test_numbers_written_as_text_are_numbers(tmp_path: Path) -> None:
    dataset = open_arrays(tmp_path, x=np.zeros((3, 1)), labels=np.array(["104.25", "9.00", "23.5"]))

    assert dataset.labels is None
    assert [float(dataset.targets[index]) for index in range(3)] == [104.25, 9.0, 23.5]


def test_the_same_content_has_the_same_hash_and_labels_do_not_count(tmp_path: Path) -> None:
    x = np.array([[1, 2], [1, 2], [2, 1]])

    dataset = open_arrays(tmp_path, x=x, labels=np.array([0, 1, 0]))

    assert dataset.content_hash(0) == dataset.content_hash(1) != dataset.content_hash(2)


def test_pickles_are_refused_and_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("sprung").touch, ())

    with (tmp_path / "data").open("wb") as file:
        np.savez(file, x=np.array([Trap()], dtype=object))

    with pytest.raises(Refused, match="never unpickled") as refused:
        open_dataset(Data(path=tmp_path / "data"))
    assert refused.value.code == "pickled_array"
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("compress", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_claims_more_than_there_is_is_refused_before_allocation(
    tmp_path: Path, compress: int
) -> None:
    honest = npy(np.zeros(8, np.float64))
    lying = honest.replace(b"(8,), }" + b" " * 12, b"(549755813888,), }" + b" ")

    with pytest.raises(Refused, match="claims 4398046511104 bytes") as refused:
        open_dataset(write_member(tmp_path / "data", lying, compress=compress))
    assert refused.value.code == "broken_array"


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"x": np.zeros((0, 3))}, "empty_dataset"),
        ({"labels": np.zeros(3, int)}, "empty_dataset"),
        ({"x": np.zeros((3, 1)), "y": np.zeros((4, 1))}, "unequal_lengths"),
        ({"x": np.zeros((3, 1)), "labels": np.zeros(4, int)}, "unequal_lengths"),
        ({"x": np.zeros((3, 1)), "labels": np.array(1)}, "unequal_lengths"),
        ({"x": np.zeros((3, 1)), "labels": np.array([np.nan, 1, 2])}, "labels_not_finite"),
        ({"x": np.zeros((3, 1)), "labels": np.full((3, 2), 1j)}, "unsupported_array"),
        ({"x": np.zeros((3, 1)), "stream": np.zeros(2, int)}, "unequal_lengths"),
        ({"x": np.zeros((3, 1)), "stream": np.array([0.5, 1, 2])}, "unequal_lengths"),
        ({"x": np.array(["a", "b"])}, "unsupported_array"),
        ({"x": np.zeros(3, "datetime64[s]")}, "unsupported_array"),
    ],
)
def test_arrays_that_make_no_dataset_are_refused(tmp_path: Path, arrays: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as refused:
        open_arrays(tmp_path, **arrays)

    assert refused.value.code == code
    assert len(refused.value.detail.split()) > 5


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"hello, this is text", "unknown_data_format"),
        (b"\x80\x04\x95", "unknown_data_format"),
        (b"PK\x03\x04 cut off", "broken_archive"),
        (b"\x93NUMPY\x01\x00v", "broken_array"),
        (b"PK\x05\x06" + bytes(18), "empty_dataset"),
    ],
)
def test_files_that_are_no_dataset_are_refused_by_their_content(
    tmp_path: Path, content: bytes, code: str
) -> None:
    (tmp_path / "data.npz").write_bytes(content)

    with pytest.raises(Refused) as refused:
        open_dataset(Data(path=tmp_path / "data.npz"))

    assert refused.value.code == code


@pytest.mark.parametrize("labels", [np.array([0.25, 0.5]), np.zeros((2, 3, 3), np.float32), np.eye(2, 4)])
def test_labels_that_are_no_classes_are_targets(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 3), np.float32), labels=labels)

    dataset = open_dataset(Data(path=tmp_path / "data.npz"))

    assert dataset.labels is None
    assert dataset.targets is not None
    assert all(np.array_equal(np.asarray(dataset.targets[i]), label) for i, label in enumerate(labels))
    assert summarize(dataset).targets is not None


def test_streams_are_numbered_in_the_order_of_their_first_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 3), np.float32), stream=np.array([7, 3, 7, 3]))

    dataset = open_dataset(Data(path=tmp_path / "data.npz"))

    assert dataset.groups == (0, 1, 0, 1)
    assert blocks(dataset) == [[0, 2], [1, 3]]
    assert summarize(dataset).streams == 2


@pytest.mark.parametrize("labels", [[0.0, np.inf], [0.0, np.nan]])
def test_labels_that_are_not_finite_are_refused(tmp_path: Path, labels: list[float]) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 3), np.float32), labels=np.array(labels))

    with pytest.raises(Refused) as refused:
        open_dataset(Data(path=tmp_path / "data.npz"))

    assert refused.value.code == "labels_not_finite"


@pytest.mark.parametrize("shape", ["(-5, 3)", f"({2**62}, 0)", f"(4, 0, {2**70})"])
def test_a_header_with_an_impossible_shape_is_refused(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (118 - len(header) - 1) + b"\n"
    (tmp_path / "data.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)

    with pytest.raises(Refused) as refused:
        open_dataset(Data(path=tmp_path / "data.npy"))

    assert refused.value.code == "broken_array"


def test_what_unpacks_to_far_more_than_it_is_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "RATIO_MATTERS_ABOVE", 10**6)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / f"{save.__name__}.npz", image=np.zeros((2, 10**6), np.uint8))

    assert len(npz.open_npz(tmp_path / "savez.npz")) == 2
    with pytest.raises(Refused, match="uncompressed") as refused:
        npz.open_npz(tmp_path / "savez_compressed.npz")
    assert refused.value.code == "archive_too_large"


def test_an_array_cannot_claim_more_packed_bytes_than_the_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "RATIO_MATTERS_ABOVE", 10**6)
    path = tmp_path / "d.npz"
    np.savez_compressed(path, image=np.zeros((2, 10**6), np.uint8))
    lying = bytearray(path.read_bytes())
    packed = lying.index(b"PK\x01\x02") + 20  # of the only entry of the central directory
    lying[packed : packed + 4] = (10**6).to_bytes(4, "little")
    path.write_bytes(lying)

    with pytest.raises(Refused) as refused:
        npz.open_npz(path)
    assert refused.value.code == "archive_too_large"


def test_a_full_disk_is_not_the_archives_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.npz"
    np.savez_compressed(path, image=np.zeros((2, 100), np.uint8))
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "r+b", buffering=0))

    with pytest.raises(OSError, match="No space left"):
        npz.open_npz(path)
