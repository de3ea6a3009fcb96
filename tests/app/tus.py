"""A client of resumable uploads, and its connections that stand still or break."""

import base64
import hashlib
import socket

import httpx
from sqlalchemy import update

from app.db.base import now_us
from app.db.models import Upload
from tests.app.conftest import Service
from tests.waiting import in_time

TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = {**TUS, "Content-Type": "application/offset+octet-stream"}


def text(value: str) -> str:
    """A value as the protocol's metadata hold it."""
    return base64.b64encode(value.encode()).decode()


def hexdigest(sent: bytes) -> str:
    return hashlib.sha256(sent).hexdigest()


def checksum(sent: bytes) -> dict[str, str]:
    """The header that goes with a piece."""
    return {"Upload-Checksum": "sha256 " + base64.b64encode(hashlib.sha256(sent).digest()).decode()}


def create(http: httpx.Client, length: int, **headers: str) -> str:
    """The path of a new upload of this many bytes."""
    answer = http.post("/v1/uploads", headers={**TUS, "Upload-Length": str(length), **headers})
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def patch(http: httpx.Client, url: str, offset: int, sent: bytes, **headers: str) -> httpx.Response:
    return http.patch(url, content=sent, headers={**CHUNK, "Upload-Offset": str(offset), **headers})


def offset(http: httpx.Client, url: str) -> int:
    """How many bytes of an upload count so far."""
    return int(http.head(url, headers=TUS).headers["upload-offset"])


def age(service: Service, url: str, column: str) -> None:
    """Let the lease or the time of an upload run out."""
    with service.database.writing() as db:
        db.execute(update(Upload).where(Upload.id == url.rpartition("/")[2]).values({column: now_us() - 1}))


def half_sent(service: Service, http: httpx.Client, url: str, sent: bytes, whole: int) -> socket.socket:
    """A connection on which a PATCH of `whole` bytes stands still after these."""
    host, port = service.address
    connection = socket.create_connection((host, port))
    lines = [
        f"PATCH {url} HTTP/1.1",
        f"Host: {host}",
        f"Authorization: {http.headers['authorization']}",
        f"Content-Length: {whole}",
        *(f"{name}: {value}" for name, value in {**CHUNK, "Upload-Offset": "0"}.items()),
    ]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + sent)
    return connection


def locked(service: Service, url: str) -> bool:
    """Whether somebody is sending to this upload."""
    with service.database.reading() as db:
        return db.get_one(Upload, url.rpartition("/")[2]).lease_until is not None


def broken(service: Service, http: httpx.Client, url: str, sent: bytes, whole: int) -> None:
    """A PATCH of `whole` bytes whose connection breaks after these."""
    connection = half_sent(service, http, url, sent, whole)
    assert in_time(lambda: locked(service, url))
    connection.close()
    assert in_time(lambda: not locked(service, url))
