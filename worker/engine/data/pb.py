"""ONNX test data: `test_data_set_0/input_0.pb` and so on, as models from the ONNX zoo bring along."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from app.domain.errors import Refused
from app.domain.report import ArrayInfo
from worker.engine.data.archive import BROKEN, Entry
from worker.engine.data.dataset import Array, as_bytes, common_shape

NAME = re.compile(r"(?:.*/)?test_data_set_(?P<set>\d{1,9})/(?P<kind>input|output)_(?P<place>\d{1,9})\.pb")
DTYPES = {getattr(onnx.TensorProto, name) for name in ("BOOL", "FLOAT", "FLOAT16", "DOUBLE")} | {
    getattr(onnx.TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True)
class PbDataset:
    """One sample for each test data set; tensors that have no name are called by their place."""

    inputs: tuple[tuple[Entry, ...], ...]
    outputs: tuple[tuple[Entry, ...], ...]
    format: str = "pb"
    labels: None = None
    classes: tuple[str, ...] = ()
    targets: None = None
    groups: None = None
    pairs: bool = False
    warnings: tuple[str, ...] = ("There are no labels: the outputs given are compared, and not counted.",)

    @property
    def padding(self) -> Mapping[str, int]:
        """Nothing is filled up."""
        return {}

    def __len__(self) -> int:
        return len(self.inputs)

    def sample(self, index: int) -> dict[str, Array]:
        """The input tensors in the order of the graph's inputs, batch axis included."""
        tensors = [_tensor(entry) for entry in self.inputs[index]]
        names = [tensor.name for tensor in tensors]
        known = all(names) and len(set(names)) == len(names)
        return {
            (tensor.name if known else f"input_{place}"): numpy_helper.to_array(tensor)
            for place, tensor in enumerate(tensors)
        }

    def expected(self, index: int) -> list[Array]:
        """The outputs given, in the order of the graph's outputs."""
        return [numpy_helper.to_array(_tensor(entry)) for entry in self.outputs[index]]

    def content_hash(self, index: int) -> bytes:
        """16 bytes over the input tensors."""
        digest = hashlib.blake2b(digest_size=16)
        for array in self.sample(index).values():
            digest.update(as_bytes(array))
        return digest.digest()

    def file_name(self, index: int) -> str | None:
        """The path of the first input."""
        return self.inputs[index][0].name

    def arrays(self) -> tuple[ArrayInfo, ...]:
        """Names, dtypes and shapes, batch axis included."""
        every = [self.sample(index) for index in range(len(self))]
        return tuple(
            ArrayInfo(name, str(array.dtype), common_shape({s[name].shape for s in every if name in s}))
            for name, array in every[0].items()
        )


def is_test_data(name: str) -> bool:
    """Whether a path is one of a test data set."""
    return NAME.fullmatch(name) is not None


def sets_beside(folder: Path) -> list[Entry]:
    """The files of the test data sets in a folder, as they lie beside a model."""
    found = sorted(folder.glob("test_data_set_*/*.pb"))
    return [
        Entry(name, path.stat().st_size, partial(_read, path), partial(_open, path))
        for path in found
        if is_test_data(name := path.relative_to(folder).as_posix())
    ]


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _read(path: Path, count: int) -> bytes:
    with _open(path) as file:
        return file.read(count)


def open_pb(entries: Sequence[Entry]) -> PbDataset:
    """Open the test data sets in an archive; other files in it are passed over.

    Raises:
        Refused: `broken_tensor`, `unsupported_array`, or `empty_dataset` when a set has no inputs.
    """
    sets: dict[int, dict[str, list[tuple[int, Entry]]]] = {}
    for entry in entries:
        found = NAME.fullmatch(entry.name)
        if found:
            kinds = sets.setdefault(int(found["set"]), {"input": [], "output": []})
            kinds[found["kind"]].append((int(found["place"]), entry))
    empty = [number for number, kinds in sets.items() if not kinds["input"]]
    if empty or not sets:
        raise Refused("empty_dataset", f"test_data_set_{empty[0] if empty else 0} holds no input_0.pb.")
    ordered = [sets[number] for number in sorted(sets)]
    dataset = PbDataset(_placed(ordered, "input"), _placed(ordered, "output"))
    dataset.sample(0)
    return dataset


def _placed(
    sets: Sequence[Mapping[str, list[tuple[int, Entry]]]], kind: str
) -> tuple[tuple[Entry, ...], ...]:
    return tuple(tuple(e for _, e in sorted(one[kind], key=lambda pair: pair[0])) for one in sets)


def _tensor(entry: Entry) -> onnx.TensorProto:
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(entry.read(-1))
    except (*BROKEN, DecodeError) as error:
        raise _broken(entry, "its content is no TensorProto; sequences and maps cannot be read") from error
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type not in DTYPES:
        kinds = dict(onnx.TensorProto.DataType.items())
        kind = next((name for name, number in kinds.items() if number == tensor.data_type), tensor.data_type)
        detail = f"{entry.name!r} holds {kind}; only numbers can be read, and no external data or sequences."
        raise Refused("unsupported_array", detail)
    if not isinstance(tensor.name, str):
        raise _broken(entry, f"its name {tensor.name!r} is no UTF-8")
    try:
        numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise _broken(entry, str(error)) from error
    return tensor


def _broken(entry: Entry, why: str) -> Refused:
    return Refused("broken_tensor", f"{entry.name!r} cannot be read: {why}. Write it again with onnx.")
