"""Data of few bytes that lie about what they hold, by format: how each is made, and the code that it meets.

`LIES` are refused by the reader that opens them, `BOMBS` by the limits of its process.
"""

import json
import lzma
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
from arro3.core import DataType
from onnx import TensorProto

from tests.engine import hdf5s
from tests.engine.parquets import Column, files, objects, parquet, plain
from tests.engine.texts import tokenizer
from tests.zips import zipped

Make = Callable[[], bytes]
Cases = Mapping[str, tuple[Make, str]]
PGM = b"P5 2 2 255\n\0\0\0\0"
TEXTS = DataType.string()
BLOCK = 512  # of a tar


def npy(header: str, values: bytes = b"") -> bytes:
    """An npy with this header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + values


def array(kind: str, shape: Sequence[int], values: bytes = b"") -> bytes:
    """An npy that says to hold such values."""
    return npy(repr({"descr": kind, "fortran_order": False, "shape": tuple(shape)}), values)


def nameless() -> bytes:
    """A zip whose only file has no name."""
    packed = zipped({"a.png": PGM}).replace(b"a.png", b"").replace(b"\x05\0\0\0", b"\0\0\0\0")
    size, offset = struct.unpack_from("<II", packed, len(packed) - 10)
    return packed[:-10] + struct.pack("<IIH", size - 5, offset - 5, 0)


def tensors(header: Mapping[str, Any] | bytes, values: bytes = b"") -> bytes:
    """A safetensors with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def tensor(shape: Sequence[int], begin: int, end: int, kind: str = "F32") -> dict[str, Any]:
    """A tensor in the header of a safetensors."""
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def hdf5(harm: Callable[[h5py.File], None]) -> bytes:
    """An HDF5 file of five samples, harmed."""
    with tempfile.TemporaryDirectory() as folder:
        data = hdf5s.write(Path(folder) / "data", {"x": list(hdf5s.PIXELS)})
        with h5py.File(data.path, "a") as file:
            harm(file)
        return data.path.read_bytes()


def superblock() -> bytes:
    """An HDF5 file with a superblock of ones."""
    whole = hdf5(lambda _file: None)
    return whole[:8] + b"\xff" * 88 + whole[96:]


def table(columns: Mapping[str, Column]) -> bytes:
    """A parquet, packed."""
    with tempfile.TemporaryDirectory() as folder:
        return parquet(Path(folder) / "data", columns, compression="zstd(3)").read_bytes()


def footer(content: bytes, length: int | None = None) -> bytes:
    """A parquet of a footer alone."""
    return b"PAR1" + content + struct.pack("<I", len(content) if length is None else length) + b"PAR1"


def member(name: str, kind: bytes, size: int, content: bytes = b"") -> bytes:
    """A header of a tar, whatever its size says, and what follows it."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


def attributes(pair: bytes) -> bytes:
    """A tar with a picture, described by an extended header of one pair, below 90 bytes."""
    line = b"%d " % (len(pair) + 4) + pair + b"\n"
    end = bytes(2 * BLOCK)
    return member("x", tarfile.XHDTYPE, len(line), line) + member("a.png", b"0", len(PGM), PGM) + end


def chain() -> bytes:
    """A tar of headers that each describe the next one."""
    return member("x", tarfile.GNUTYPE_LONGNAME, 1, b"a") * 1500 + bytes(2 * BLOCK)


def dictionary() -> bytes:
    """An xz that asks for 4 GiB before it unpacks a byte."""
    packed = bytearray(lzma.compress(attributes(b"a=b")))
    header = slice(12, 12 + 4 * packed[12])
    packed[16] = 40  # the size of the dictionary
    packed[header.stop : header.stop + 4] = struct.pack("<I", zlib.crc32(packed[header]))
    return bytes(packed)


def png(width: int, height: int, more: bytes = b"") -> bytes:
    """A black picture of this size, as far as its header goes."""
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min((width + 1) * height, 2**20)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def pictured(picture: bytes, **config: object) -> bytes:
    """A picture beside a configuration of its preprocessing."""
    return zipped({"a.png": picture, "preprocessor_config.json": json.dumps(config).encode()})


def texts(**parts: object) -> bytes:
    """Two texts, and their tokenizer with these parts in place of its own."""
    whole = json.loads(tokenizer()) | parts
    lines = b'{"text": "a cat"}\n{"text": "' + b"a" * 60 + b'b"}\n'
    return zipped({"tokenizer.json": json.dumps(whole).encode(), "data.jsonl": lines})


def split_by(**splitter: object) -> bytes:
    """Texts that their tokenizer splits by this."""
    return texts(pre_tokenizer=splitter)


def misnamed() -> bytes:
    """Test data whose tensor has a name that is no UTF-8."""
    proto = TensorProto(name="xx", data_type=TensorProto.FLOAT, dims=[1], float_data=[1])
    return zipped({"test_data_set_0/input_0.pb": proto.SerializeToString().replace(b"xx", b"\xff\xfe")})


def twice_but_for_the_ending() -> bytes:
    """An npz whose two arrays have one name."""
    return zipped({name: array("<f4", (1, 1), bytes(4)) for name in ("x", "x.npy")})


LIES: dict[str, Cases] = {
    "arrays": {
        "a header of brackets": (partial(npy, "(" * 9000), "broken_array"),
        "a header of minus signs": (partial(npy, "-" * 9000 + "1"), "broken_array"),
        "a header of names": (partial(npy, "a" + ".a" * 4000), "broken_array"),
        "2^58 samples without values": (partial(array, "<f4", (2**58, 0)), "too_many_samples"),
        "2^50 labels without letters": (
            lambda: zipped({"x.npy": array("<f4", (2**50, 0)), "labels.npy": array("<U0", (2**50,))}),
            "too_many_samples",
        ),
        "labels of letters that there are not": (
            lambda: zipped(
                {"x.npy": array("<f4", (1, 1), bytes(4)), "labels.npy": array("<U1", (1,), b"\xff" * 4)}
            ),
            "broken_array",
        ),
        "two arrays of one name": (twice_but_for_the_ending, "unsafe_archive"),
        "a file without a name": (nameless, "unsafe_archive"),
    },
    "safetensors": {
        "a header of 8 EiB": (lambda: struct.pack("<Q", 2**63) + b"{}", "unknown_data_format"),
        "tensors that overlap": (
            lambda: tensors({"x": tensor([2], 0, 8), "y": tensor([2], 4, 12)}, bytes(12)),
            "broken_array",
        ),
        "a tensor beyond the end": (lambda: tensors({"x": tensor([2**40], 0, 2**42)}), "broken_array"),
        "a tensor of 2^64 values": (lambda: tensors({"x": tensor([2**63, 2], 0, 8)}), "broken_array"),
        "a kind of number that there is not": (
            lambda: tensors({"x": tensor([2], 0, 8, "F99")}, bytes(8)),
            "broken_array",
        ),
        "a header nested without end": (lambda: tensors(b'{"x":' * 10_000), "broken_array"),
        "2^60 samples without values": (
            lambda: tensors({"x": tensor([2**60, 0], 0, 0)}),
            "too_many_samples",
        ),
    },
    "h5": {
        "a link to another file": (partial(hdf5, hdf5s.linked), "unsafe_archive"),
        "a link within": (partial(hdf5, hdf5s.soft), "unsafe_archive"),
        "values in another file": (partial(hdf5, hdf5s.raw), "unsafe_archive"),
        "a dataset made of another's": (partial(hdf5, hdf5s.virtual), "unsafe_archive"),
        "4 TiB of values": (partial(hdf5, hdf5s.vast), "archive_too_large"),
        "a chunk of 1 GiB": (partial(hdf5, hdf5s.chunky), "archive_too_large"),
        "values that shrink a thousand times": (partial(hdf5, hdf5s.many_zeros), "archive_too_large"),
        "an array without a shape": (partial(hdf5, hdf5s.without_space), "unsupported_array"),
        "two inputs of one name": (partial(hdf5, hdf5s.twice), "unknown_data_format"),
        "a broken superblock": (superblock, "broken_array"),
    },
    "parquet": {
        "one picture ten times": (
            lambda: table({"image": files([PGM + bytes(2_000_000)] * 10)}),
            "archive_too_large",
        ),
        "one label, long and often": (
            lambda: table({"image": files([PGM] * 20), "label": plain(["a" * 100_000] * 20, TEXTS)}),
            "broken_labels",
        ),
        "a footer before the beginning": (partial(footer, bytes(9), 2**32 - 1), "broken_parquet"),
        "a footer nested without end": (partial(footer, b"\x15\x02" + b"\x9c" * 99_999), "broken_parquet"),
        "lists of lists of labels": (
            lambda: table({"image": files([PGM]), "label": objects([[[1, 2, 3, 4]]], [[1]])}),
            "unsupported_column",
        ),
    },
    "tar": {
        "a description of an EiB": (lambda: member("x", tarfile.XHDTYPE, 2**60), "broken_archive"),
        "a map of holes that is none": (partial(attributes, b"GNU.sparse.map=a,b"), "broken_archive"),
        "headers that describe each other": (chain, "broken_archive"),
        "half a tar in a gzip": (lambda: b"\x1f\x8b\x08\0\0\0\0\0\0\xffabc\rdef", "unknown_data_format"),
    },
    "images": {
        "10^10 pixels": (lambda: zipped({"a.png": png(100_000, 100_000)}), "image_too_large"),
        "a line that grows as it is resized": (
            lambda: pictured(png(1, 100_000), size=256),
            "image_too_large",
        ),
        "a text that unpacks to 5 MB": (
            lambda: zipped({"a.png": png(2, 2, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5_000_000))))}),
            "broken_image",
        ),
        "a share of which nothing is left": (
            lambda: pictured(PGM, size=224, crop_pct=1e-320),
            "unsupported_preprocessor",
        ),
    },
    "texts": {
        "a tokenizer that knows nothing": (
            lambda: texts(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}),
            "broken_tokenizer",
        ),
        "pieces of no length": (partial(split_by, type="FixedLength", length=0), "broken_tokenizer"),
        "a pattern that tries without end": (
            partial(
                split_by,
                type="Split",
                pattern={"Regex": "(a+)+$|(a+)+b"},
                behavior="Isolated",
                invert=False,
            ),
            "broken_tokenizer",
        ),
        "texts cut down to nothing": (
            lambda: texts(
                truncation={"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0}
            ),
            "broken_tokenizer",
        ),
        "a tensor's name that is no UTF-8": (misnamed, "broken_tensor"),
    },
}
BOMBS: Cases = {
    "a parquet's footer that promises 2^31 columns": (
        partial(footer, b"\x15\x02\x19\xfc\xff\xff\xff\xff\x07"),
        "memory_limit",
    ),
    "an xz that asks for 4 GiB": (dictionary, "broken_archive"),
}
