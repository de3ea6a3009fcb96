"""Multipart bodies, streamed part by part: files into the blob store, fields into memory, nothing spooled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from sqlalchemy.exc import DataError, SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.api.body import pump
from app.domain.errors import DomainError, FieldError, InvalidInput, pointer
from app.storage import Received, Storage, Writer

FIELD_BYTES = 1024 * 1024
PARTS = 100


class InvalidMultipart(DomainError):
    """The body is not the multipart form that its Content-Type promises."""

    code = "invalid_multipart"


@dataclass(frozen=True)
class FilePart:
    """A file that is in the store already."""

    filename: str
    received: Received


@dataclass
class Form:
    """A form's fields as text, and its files by the name of their part."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[FilePart]] = field(default_factory=dict)

    def file(self, name: str) -> FilePart:
        """The one file of a required part.

        Raises:
            InvalidInput: It was not sent, or several were.
        """
        only, *others = self.every(name)
        if others:
            detail = f"one file belongs here, not {1 + len(others)}"
            raise InvalidInput.at(f"/{name}", detail)
        return only

    def every(self, name: str) -> list[FilePart]:
        """The files of a required part, at least one.

        Raises:
            InvalidInput: None was sent.
        """
        if name not in self.files:
            raise InvalidInput(
                f"The form has no file part {name!r}; send it with -F {name}=@FILE.",
                errors=(FieldError(f"/{name}", "this file part is required"),),
            )
        return self.files[name]


@asynccontextmanager
async def received_form(
    request: Request, storage: Storage, files: frozenset[str], fields: frozenset[str]
) -> AsyncIterator[Form]:
    """Read the whole form; what it stored is removed again when the block fails.

    Raises:
        InvalidMultipart: The body cannot be parsed.
        InvalidInput: A part has an unknown name, or a field is too long or sent twice.
    """
    try:
        sink = _Sink(_boundary(request), storage, files, fields)
    except FormParserError as error:
        raise InvalidMultipart(f"{error}.") from error
    try:
        await pump(request, sink.write)
        await run_in_threadpool(sink.finish)
        yield sink.form
    except DataError:
        await run_in_threadpool(sink.discard)
        raise
    except (SQLAlchemyError, asyncio.CancelledError):
        # Whether the commit happened is unknown. A row without its object would be worse than an orphan.
        sink.close()
        raise
    except BaseException:
        await run_in_threadpool(sink.discard)
        raise


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        message = "Send multipart/form-data with a boundary, as `curl -F` does."
        raise InvalidMultipart(message)
    return options[b"boundary"]


class _Sink:
    """Where the parser's callbacks put what they find."""

    def __init__(
        self, boundary: bytes, storage: Storage, files: frozenset[str], fields: frozenset[str]
    ) -> None:
        self.form = Form()
        self._storage, self._files, self._fields = storage, files, fields
        self._open = ExitStack()
        self._writer: Writer | None = None
        self._text = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._name = self._filename = ""
        self._parts = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finished,
            },
        )

    def write(self, chunk: bytes) -> None:
        """Parse the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            message = f"The multipart body is broken at byte {error.offset}."
            raise InvalidMultipart(message) from error

    def finish(self) -> None:
        """The body is at its end; so must the form be."""
        if not self._ended:
            message = "The multipart body ends before its closing boundary."
            raise InvalidMultipart(message)

    def close(self) -> None:
        """Remove the part that is being written."""
        self._open.close()

    def discard(self) -> None:
        """Remove everything that was stored."""
        self.close()
        for parts in self.form.files.values():
            for part in parts:
                self._storage.delete(part.received.key)

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS:
            message = f"The form has more than {PARTS} parts."
            raise InvalidMultipart(message)
        self._headers, self._text = {}, bytearray()

    def _header_end(self) -> None:
        self._headers[bytes(self._header[0]).lower()] = bytes(self._header[1])
        self._header = (bytearray(), bytearray())

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._filename = options.get(b"filename", b"").decode(errors="replace")
        if self._name in self._files:
            opened: AbstractContextManager[Writer] = self._storage.create()
            self._writer = self._open.enter_context(opened)
        elif self._name not in self._fields:
            known = ", ".join(sorted(self._files | self._fields))
            detail = f"there is no part of this name; known are {known}"
            raise InvalidInput.at(pointer(self._name), detail)
        elif self._name in self.form.fields:
            detail = "this field was sent twice; send it once"
            raise InvalidInput.at(pointer(self._name), detail)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._writer:
            self._writer.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > FIELD_BYTES:
            detail = f"this field has more than {FIELD_BYTES} bytes"
            raise InvalidInput.at(pointer(self._name), detail)

    def _end(self) -> None:
        if self._writer:
            part = FilePart(self._filename, self._writer.finish())
            self.form.files.setdefault(self._name, []).append(part)
            self._writer = None
            self._open.close()
        else:
            self.form.fields[self._name] = self._decoded()

    def _decoded(self) -> str:
        text = self._text.decode(errors="replace")
        if "\0" in text:
            detail = "this text holds a NUL, which cannot be stored"
            raise InvalidInput.at(pointer(self._name), detail)
        return text

    def _finished(self) -> None:
        self._ended = True
