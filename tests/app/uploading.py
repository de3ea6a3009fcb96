"""What tests upload: bytes, files, and forms written by hand."""

import secrets
from typing import Any

import httpx

Files = list[tuple[str, Any]]
FILE = ('name="file"; filename="m.onnx"', b"bytes")
MULTIPART = {"Content-Type": "multipart/form-data; boundary=B"}


def content(size: int = 1000) -> bytes:
    """Bytes that no other test sends."""
    return secrets.token_bytes(size)


def form(*parts: tuple[str, bytes]) -> bytes:
    """A form of these parts, each of a disposition and a body."""
    return b"".join(_part(*part) for part in parts) + b"--B--\r\n"


def _part(disposition: str, body: bytes) -> bytes:
    return b"--B\r\nContent-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + body + b"\r\n"


def post_form(http: httpx.Client, body: bytes, path: str = "/v1/models") -> httpx.Response:
    return http.post(path, content=body, headers=MULTIPART)
