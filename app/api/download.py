"""Sending a stored object: its hash as ETag, a name that is safe in a header."""

from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import quote

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from app.storage import Storage
from app.storage.base import chunks


def send_blob(
    request: Request, storage: Storage, blob: tuple[str, str, int], filename: str, media_type: str
) -> Response:
    """Stream the object of a blob (sha256, key, size), or 304 when the client has it."""
    sha256, key, size = blob
    headers = {
        "ETag": f'"{sha256}"',
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
    }
    if f'"{sha256}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(size)
    return StreamingResponse(_pieces(storage.open(key)), media_type=media_type, headers=headers)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        yield from chunks(file)
