"""Read and write models, with or without external data."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import (
    _get_all_tensors,
    load_external_data_for_tensor,
    uses_external_data,
)

from app.domain.errors import Refused
from worker.engine.session import reason

_WHAT_TO_SEND = "Upload the file that your exporter wrote, whole."
SHOWN = 200  # characters of a location
LONGEST_NAME = 255  # bytes, on common file systems
INLINE_LIMIT = 1_500_000_000  # bytes of tensors; protobuf ends at 2 GiB, and the graph needs room too


def load_model(path: Path) -> onnx.ModelProto:
    """Read a model and its external data into memory.

    Args:
        path: the main file; external data is looked for in its folder and nowhere else.

    Raises:
        Refused: `not_onnx`, `external_data_missing` or `external_data_unsafe`.
    """
    model = parse(path)
    check_external_data(model, path.parent)
    for tensor in external_tensors(model):
        load_external_data_for_tensor(tensor, str(path.parent))
    return model


def parse(path: Path) -> onnx.ModelProto:
    """Read the main file only: tensors with external data stay references.

    Raises:
        Refused: `not_onnx` when the bytes are no ONNX model.
    """
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (DecodeError, UnicodeDecodeError) as error:
        detail = f"{path.name} is not an ONNX model: its bytes are no valid protobuf. {_WHAT_TO_SEND}"
        raise Refused("not_onnx", detail) from error
    if not model.HasField("graph") or not model.ir_version:
        raise Refused("not_onnx", f"{path.name} holds no ONNX graph. {_WHAT_TO_SEND}")
    return model


def external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The tensors whose bytes lie in another file, in every graph and attribute."""
    return (tensor for tensor in _get_all_tensors(model) if uses_external_data(tensor))


def external_files(path: Path) -> set[Path]:
    """The files beside a model that hold its weights.

    Raises:
        Refused: `not_onnx`.
    """
    entries = (entry for tensor in external_tensors(parse(path)) for entry in tensor.external_data)
    return {path.parent / str(entry.value) for entry in entries if entry.key == "location"}


def check_external_data(model: onnx.ModelProto, folder: Path) -> None:
    """Refuse references that leave the folder, that have no file, or that run past its end.

    Raises:
        Refused: `external_data_missing` or `external_data_unsafe`.
    """
    for tensor in external_tensors(model):
        fields = {str(entry.key): str(entry.value) for entry in tensor.external_data}
        location = fields.get("location", "")
        _refuse_unsafe(tensor.name, location, folder)
        size = (folder / location).stat().st_size
        end = _end(tensor.name, fields)
        if end > size:
            raise Refused(
                "external_data_missing",
                f"Tensor {tensor.name!r} needs {end} bytes of {location!r}, which has {size}. "
                "Upload the whole file.",
            )


def _refuse_unsafe(tensor: str, location: str, folder: Path) -> None:
    path = folder / location
    parts = PurePosixPath(location.replace("\\", "/"))
    outside = parts.is_absolute() or ".." in parts.parts or ":" in location
    no_name = "\0" in location or any(len(os.fsencode(part)) > LONGEST_NAME for part in parts.parts)
    if not location or outside or no_name or not path.resolve().is_relative_to(folder.resolve()):
        raise Refused(
            "external_data_unsafe",
            f"Tensor {tensor!r} points at {location[:SHOWN]!r}, where no file of the upload can lie. "
            "Save the model again with its external data in the same folder.",
        )
    if not path.is_file():
        raise Refused(
            "external_data_missing",
            f"Tensor {tensor!r} needs the file {location!r}, which was not uploaded. "
            "Send it as a further file of the same model.",
        )


def _end(tensor: str, fields: dict[str, str]) -> int:
    try:
        offset, length = int(fields.get("offset") or 0), int(fields.get("length") or 0)
    except ValueError:
        offset = length = -1
    if offset < 0 or length < 0:
        raise Refused("external_data_unsafe", f"Tensor {tensor!r} has an offset or a length that is no size.")
    return offset + length


def tensor_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all tensors that are held in memory; safe above 2 GB, where `ByteSize` is not."""
    tensors = _get_all_tensors(model)
    return sum(len(t.raw_data) if t.HasField("raw_data") else int(t.ByteSize()) for t in tensors)


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as `write_model` does, and check it.

    Raises:
        Refused: `invalid_model` when the ONNX checker finds fault with what was written.
    """
    write_model(model, path)
    check(path)


@contextmanager
def removed_if_refused(path: Path) -> Iterator[None]:
    """Take a written model and its external data away when what follows refuses it."""
    try:
        yield
    except Refused:
        path.unlink(missing_ok=True)
        _data_of(path).unlink(missing_ok=True)
        raise


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; above 1.5 GB its tensors go into `<name>.data` beside it.

    Above that size `model` itself is turned into references: load it again to use it.
    """
    if tensor_bytes(model) > INLINE_LIMIT:
        data = _data_of(path)
        data.unlink(missing_ok=True)  # onnx appends to what is there
        onnx.save_model(model, path, save_as_external_data=True, location=data.name)
    else:
        path.write_bytes(model.SerializeToString(deterministic=True))


def _data_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def check(path: Path) -> None:
    """Run the ONNX checker on a file, external data included.

    Raises:
        Refused: `invalid_model` with the checker's first sentence.
    """
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise Refused(
            "invalid_model", f"The ONNX checker refuses {path.name}: {reason(error, path)}"
        ) from error


def model_bytes(path: Path) -> int:
    """Bytes on disk: the main file and every file that it refers to."""
    tensors = external_tensors(parse(path))
    locations = {e.value for t in tensors for e in t.external_data if e.key == "location"}
    files = [path, *(path.parent / location for location in locations)]
    return sum(file.stat().st_size for file in files)


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that may be changed in the place of this one."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied
