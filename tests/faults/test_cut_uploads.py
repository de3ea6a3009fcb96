"""Uploads of every kind that are cut at a random byte, a hundred times."""

import hashlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.storage import LocalStorage
from tests.app.tus import CHUNK, TUS
from tests.faults import parts
from tests.faults.conftest import Report
from tests.faults.promises import Client, Log, verify
from tests.waiting import in_time

SEED = 8
CUTS = 34  # of each kind
LARGEST = 300_000

pytestmark = pytest.mark.long


def send_part(cluster: parts.Cluster, request: str, headers: dict[str, str], body: bytes, cut: int) -> None:
    """A request that announces the whole body and breaks off after `cut` bytes."""
    told = {"Host": "api", "Authorization": f"Bearer {cluster.key}", "Content-Length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in (told | headers).items()]
    head = "\r\n".join([f"{request} HTTP/1.1", *lines, "", ""])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(cluster.api_socket))
        connection.sendall(head.encode() + body[:cut])


def contents(chance: random.Random) -> Iterator[tuple[bytes, int]]:
    """Bytes of random size, and where they are cut."""
    for _ in range(CUTS):
        body = chance.randbytes(chance.randint(2, LARGEST))
        yield body, chance.randrange(1, len(body))


def cut_blobs(cluster: parts.Cluster, client: Client, chance: random.Random) -> None:
    """What was cut is not there; sent again, it is."""
    for body, cut in contents(chance):
        sha256 = hashlib.sha256(body).hexdigest()
        send_part(cluster, f"PUT /v1/blobs/{sha256}", {}, body, cut)
        answer = client.once("HEAD", f"/v1/blobs/{sha256}")
        assert answer is not None
        assert answer.status_code == 404
        assert client.put(body) == sha256


def cut_forms(cluster: parts.Cluster, client: Client, chance: random.Random) -> None:
    """A form that was cut makes nothing."""
    boundary = {"Content-Type": "multipart/form-data; boundary=B"}
    for body, cut in contents(chance):
        head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="cut.onnx"\r\n\r\n'
        send_part(cluster, "POST /v1/models", boundary, head + body + b"\r\n--B--\r\n", len(head) + cut)
    assert client.send("GET", "/v1/models").json()["items"] == []


def cut_resumables(cluster: parts.Cluster, client: Client, chance: random.Random) -> int:
    """What counts is a beginning of what was sent; from there on it is resumed. The bytes that were kept."""
    kept = 0
    for body, cut in contents(chance):
        made = client.send("POST", "/v1/uploads", headers={**TUS, "Upload-Length": str(len(body))})
        path = made.headers["location"]
        send_part(cluster, f"PATCH {path}", {**CHUNK, "Upload-Offset": "0"}, body, cut)
        offset = resume(client, path, body)
        assert offset <= cut
        kept += offset
    return kept


def resume(client: Client, path: str, body: bytes) -> int:
    """Send the rest, once the request that was cut has let go; where it went on."""
    went_on_at: list[int] = []

    def goes_on() -> bool:
        offset = int(client.send("HEAD", path, headers=TUS).headers["upload-offset"])
        headers = {**CHUNK, "Upload-Offset": str(offset)}
        answer = client.once("PATCH", path, headers=headers, content=body[offset:])
        assert answer is not None
        assert answer.status_code in {204, 409, 423}, answer.text
        went_on_at.append(offset)
        return answer.status_code == 204

    assert in_time(goes_on)
    sha256 = hashlib.sha256(body).hexdigest()
    assert client.send("GET", path).json()["sha256"] == sha256
    client.log.blobs.add(sha256)
    return went_on_at[-1]


def test_uploads_that_are_cut_leave_nothing_and_go_on(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    log, chance = Log(), random.Random(SEED)  # noqa: S311 - to be repeated
    store = LocalStorage(home / "blobs")
    with parts.cluster(home, postgres, parts.Shape(engines=0)) as cluster, Client(cluster, log) as client:
        cut_blobs(cluster, client, chance)
        cut_forms(cluster, client, chance)
        kept = cut_resumables(cluster, client, chance)
        assert in_time(lambda: not list((store.root / "unfinished").glob("*")))
        objects = sum(path.is_file() for path in store.root.rglob("*"))
        found = verify(log, cluster.database_url, store)
    assert objects == found.blobs == 2 * CUTS
    figure(
        f"{3 * CUTS} cuts (seed {SEED}): {kept} bytes of resumable uploads counted, {objects} whole objects"
    )
