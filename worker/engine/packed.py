"""Whether an upload is an archive, by its first bytes: nothing is interpreted, and no library loaded."""

from pathlib import Path

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
TAR, TAR_AT = b"ustar", 257


def is_packed(path: Path) -> bool:
    """Whether a file begins like a zip or a tar, also a compressed one. No ONNX model does."""
    head = _head(path)
    return head.startswith(ZIP + COMPRESSED) or head[TAR_AT:].startswith(TAR)


def is_zip(path: Path) -> bool:
    """Whether a file begins like a zip."""
    return _head(path).startswith(ZIP)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(TAR_AT + len(TAR))
