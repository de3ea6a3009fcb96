"""The tus protocol 1.0.0 (https://tus.io/protocols/resumable-upload): its headers, read and written."""

import base64
from datetime import UTC, datetime
from email.utils import format_datetime

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db.base import MICROSECONDS
from app.db.models import Upload
from app.domain.errors import InvalidInput

PATH = "/v1/uploads"
VERSION = "1.0.0"
CHUNK_TYPE = "application/offset+octet-stream"
SHA256_HEX = 64
CHECKSUM = "^sha256 [A-Za-z0-9+/]{43}=$"
COUNT = r"^[0-9]{1,18}$"  # a header is text
RETRY_SECONDS = "5"
CAPABILITIES = {
    "Tus-Version": VERSION,
    "Tus-Extension": "creation,creation-with-upload,expiration,termination,checksum",
    "Tus-Checksum-Algorithm": "sha256",
}


class Tus:
    """Takes the method from X-HTTP-Method-Override; says Tus-Resumable with every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on."""
        if scope["type"] == "http" and (scope["path"] + "/").startswith(PATH + "/"):
            method = Headers(scope=scope).get("x-http-method-override", scope["method"])
            scope, send = {**scope, "method": method.upper()}, _with_version(send)
        await self.app(scope, receive, send)


def _with_version(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Tus-Resumable"] = VERSION
            if message["status"] == 423:  # noqa: PLR2004 - locked
                headers["Retry-After"] = RETRY_SECONDS
        await send(message)

    return sending


def require_version(version: str | None) -> None:
    """Raises HTTPException with 412 unless the client speaks this version."""
    if version != VERSION:
        detail = f"Send `Tus-Resumable: {VERSION}`, the only version that is spoken here; not {version!r}."
        raise HTTPException(412, detail, {"Tus-Version": VERSION})


def require_chunk(content_type: str | None) -> None:
    """Raises HTTPException with 415 unless the body is a piece of an upload."""
    if content_type != CHUNK_TYPE:
        raise HTTPException(415, f"Send `Content-Type: {CHUNK_TYPE}`; not {content_type!r}.")


def metadata(text: str) -> dict[str, str]:
    """Upload-Metadata: pairs of a key and its value in base64, separated by commas.

    Raises:
        InvalidInput: It is none, or a value is no text.
    """
    pairs = [pair.split() for pair in text.split(",") if pair.strip()]
    try:
        return {key: "".join(_text(value) for value in values) for key, *values in pairs}
    except ValueError as error:
        raise _invalid("upload-metadata", f"a value is no text in base64: {error}") from error


def checksum(text: str | None) -> bytes | None:
    """The digest of Upload-Checksum, which fits `CHECKSUM`."""
    return base64.b64decode(text.removeprefix("sha256 ")) if text else None


def state_of(upload: Upload) -> dict[str, str]:
    """The headers that tell where an upload stands."""
    headers = {"Upload-Offset": str(upload.size)}
    if upload.state == "receiving":
        moment = datetime.fromtimestamp(upload.expires_at // MICROSECONDS, UTC)
        headers["Upload-Expires"] = format_datetime(moment, usegmt=True)
    if upload.sha256:
        headers["Fewbits-Sha256"] = upload.sha256
    return headers


def _text(value: str) -> str:
    return base64.b64decode(value, validate=True).decode()


def _invalid(header: str, detail: str) -> InvalidInput:
    return InvalidInput.at(f"/{header}", detail)
