"""safetensors: named tensors behind a header in JSON, read a sample at a time."""

from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np

from app.domain.errors import Refused
from worker.engine.data.arrays import ArrayDataset, arrange

Slice: TypeAlias = Any  # its library has no types for what it reads
FORMAT = "safetensors"
LENGTH_BYTES = 8
DTYPES = {"BOOL": "bool", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64"} | {
    f"{short}{bits}": f"{long}{bits}"
    for short, long in (("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True)
class Tensor:
    """One tensor, which stays in its file."""

    part: Slice
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, index: int | EllipsisType, /) -> object:
        return self.part[index]


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes begins with the length of a header that fits into it, and a header."""
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    return head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and length <= size - LENGTH_BYTES


def open_safetensors(path: Path) -> ArrayDataset:
    """Open a safetensors file: names as in an npz, axis 0 is samples.

    Its library checks that tensors lie side by side, fill the file, and have the sizes that they claim.

    Raises:
        Refused: `broken_array`, `unsupported_array`, or names and shapes that make no samples.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - other datasets do without

    try:
        file: Any = safe_open(path, "np")
    except SafetensorError as error:
        detail = f"The safetensors file cannot be read: {error}. Save it again."
        raise Refused("broken_array", detail) from error
    names: list[str] = file.keys()
    return arrange({name: _tensor(name, file.get_slice(name)) for name in names}, FORMAT)


def _tensor(name: str, part: Slice) -> Tensor:
    kind = part.get_dtype()
    if kind not in DTYPES:
        detail = f"The tensor {name!r} holds {kind}, which arrays cannot; save it as float32 (F32)."
        raise Refused("unsupported_array", detail)
    return Tensor(part, tuple(part.get_shape()), np.dtype(DTYPES[kind]))
