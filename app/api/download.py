"""Sending stored objects: hash as ETag, ranges, names that are safe in a header, bounds on slow readers."""

import asyncio
import hashlib
import re
import zipfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote

from fastapi import Request
from starlette.concurrency import iterate_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.refusals import refuses
from app.domain.errors import NotFound
from app.storage import Storage
from app.storage.base import limited

IDLE_SECONDS = 60
ZIP64_BYTES = 2**31 - 1
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
BINARY = {"schema": {"type": "string", "format": "binary"}}
HEADERS = {
    name: {"description": text, "schema": {"type": "string"}}
    for name, text in {
        "ETag": "The SHA-256 in quotes; send it back as If-None-Match",
        "Content-Disposition": "The file's name",
        "Accept-Ranges": "bytes",
    }.items()
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes",
        "content": {"application/octet-stream": BINARY},
        "headers": HEADERS,
    },
    206: {"description": "The bytes of `Range`", "content": {"application/octet-stream": BINARY}},
    304: {"description": "If-None-Match names what is here"},
    307: {"description": "The object store has the bytes at `Location`, for five minutes; only with `s3://`"},
    **refuses("range_not_satisfiable", "blob_damaged"),
}
MAY_EXPIRE = ANSWERS | refuses("blob_damaged", "expired")


@dataclass(frozen=True)
class Object:
    """Where a blob's bytes lie, and what they are called."""

    sha256: str
    key: str
    size: int
    filename: str


def send_object(request: Request, storage: Storage, what: Object, media_type: str) -> Response:
    """Stream an object, or the range that was asked for; 304 when the client has it.

    Where the store itself answers, the client is sent there with 307; HEAD and 304 stay ours, and so is the
    ETag: the store has another for the same bytes.

    Raises:
        HTTPException: 416, the range begins after the end.
        NotFound: The bytes were deleted meanwhile.
    """
    etag = f'"{what.sha256}"'
    headers = _headers(etag, what.filename, "bytes")
    if _has(request, etag):
        return Response(status_code=304, headers=headers)
    link = storage.link(what.key, headers["Content-Disposition"], media_type)
    if link and request.method == "GET":
        return RedirectResponse(link, headers={"ETag": etag, "Cache-Control": "private, no-store"})
    span = _span(request, etag, what.size)
    start, end = span or (0, what.size)
    headers["Content-Length"] = str(end - start)
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{what.size}"
    if request.method == "HEAD":
        return Response(media_type=media_type, headers=headers)
    file = _opened(storage, what)
    return _Download(_read(file, start, end), file, 206 if span else 200, headers, media_type)


def send_zip(request: Request, storage: Storage, files: Sequence[Object], filename: str) -> Response:
    """Stream several objects as one zip without compression; the same files give the same bytes."""
    digest = hashlib.sha256(repr([(file.filename, file.sha256) for file in files]).encode())
    etag = f'"{digest.hexdigest()}"'
    headers = _headers(etag, filename, "none")
    if _has(request, etag):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        return Response(media_type="application/zip", headers=headers)
    content = _zip(storage, files)
    return _Download(content, closing(content), 200, headers, "application/zip")


class _Download(StreamingResponse):
    """Ends when its reader takes nothing for a minute, and closes what it reads. Waiting holds no thread."""

    def __init__(
        self,
        content: Iterator[bytes],
        opened: AbstractContextManager[object],
        status: int,
        headers: Mapping[str, str],
        media_type: str,
    ) -> None:
        super().__init__(iterate_in_threadpool(content), status, headers, media_type)
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._opened:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        async def sending(message: Any) -> None:  # noqa: ANN401 - an ASGI message
            async with asyncio.timeout(IDLE_SECONDS):
                await send(message)

        with suppress(TimeoutError):  # the server ends a connection whose answer stays incomplete
            await super().stream_response(sending)


def _headers(etag: str, filename: str, ranges: str) -> dict[str, str]:
    return {
        "ETag": etag,
        "Cache-Control": "private, no-cache",
        "Accept-Ranges": ranges,
        "Content-Disposition": disposition(filename),
    }


def disposition(filename: str) -> str:
    """An attachment's name (RFC 6266): plain ASCII for old clients, and all of it in UTF-8."""
    plain = re.sub(r"[^A-Za-z0-9 ._+()-]", "_", filename)
    exact = quote(filename, safe="", errors="replace")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}"


def _has(request: Request, etag: str) -> bool:
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    return bool(known & {etag, "*"})


def _span(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """First byte and the byte after the last; None for all: no range, several, or one of something else.

    Raises:
        HTTPException: 416, it begins after the end.
    """
    found = RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if request.method != "GET" or found is None or request.headers.get("if-range", etag) != etag:
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if first and last and int(last) < start:
        return None
    if start >= size:
        detail = f"Range begins at byte {start}; there are {size}."
        raise HTTPException(416, detail, {"Content-Range": f"bytes */{size}"})
    return start, end


def _opened(storage: Storage, what: Object) -> BinaryIO:
    try:
        return storage.open(what.key)
    except FileNotFoundError as error:
        raise NotFound(f"The bytes of {what.filename!r} were deleted meanwhile.") from error


def _read(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    yield from limited(file, end - start)


class _Pipe:
    """What zipfile writes, to be sent on."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        """Hold it."""
        self._held += data
        return len(data)

    def flush(self) -> None:
        """Nothing is behind this."""

    def take(self) -> bytes:
        """All that was written since the last time."""
        taken, self._held = bytes(self._held), bytearray()
        return taken


def _zip(storage: Storage, files: Sequence[Object]) -> Generator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:  # type: ignore[call-overload]  # it needs no more than this
        for file in files:
            entry = zipfile.ZipInfo(file.filename)
            large = file.size > ZIP64_BYTES
            with _opened(storage, file) as source, archive.open(entry, "w", force_zip64=large) as member:
                for chunk in limited(source, file.size):
                    member.write(chunk)
                    yield pipe.take()
    yield pipe.take()
