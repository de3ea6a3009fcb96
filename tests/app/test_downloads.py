"""Downloads over HTTP: ranges, conditions, safe names, several files as a zip, many readers at once."""

import hashlib
import io
import os
import random
import re
import socket
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import httpx
import pytest
from sqlalchemy import update
from starlette.types import Send

from app.api import download
from app.api.download import disposition
from app.db.models import Artifact, VersionFile
from tests import factories
from tests.app.conftest import MIB, Service, Tenant, finished
from tests.app.problems import problem
from tests.app.uploading import content
from tests.waiting import SECONDS

SENT = random.Random(1).randbytes(1_000_000)  # noqa: S311 - the same in every process
ETAG = f'"{hashlib.sha256(SENT).hexdigest()}"'


@pytest.fixture
def url(http: httpx.Client) -> str:
    """Where 1,000,000 bytes can be downloaded."""
    version = http.post("/v1/models", files={"file": ("m.onnx", SENT)}).json()
    return str(version["links"]["content"])


def test_a_download_says_what_it_is(http: httpx.Client, url: str) -> None:
    answer = http.get(url)

    assert answer.content == SENT
    assert answer.headers["etag"] == ETAG
    assert answer.headers["content-length"] == str(len(SENT))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"].startswith('attachment; filename="m.onnx"')
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_head_says_the_same_without_the_bytes(http: httpx.Client, url: str) -> None:
    whole, head = http.get(url), http.head(url, headers={"Range": "bytes=0-9"})

    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-length", "content-disposition", "accept-ranges", "content-type"):
        assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=999999-", 999_999, 1_000_000),
        ("bytes=300000-700000", 300_000, 700_001),
        ("bytes=-5", 999_995, 1_000_000),
        ("bytes=-2000000", 0, 1_000_000),
        ("bytes=999990-2000000", 999_990, 1_000_000),
    ],
)
def test_a_range_is_answered_with_its_bytes(
    http: httpx.Client, url: str, asked: str, start: int, end: int
) -> None:
    answer = http.get(url, headers={"Range": asked})

    assert answer.status_code == 206
    assert answer.content == SENT[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1000000"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-2", "bytes=-", "bytes=a-b", "bytes=0-1,5-6", "lines=1-2", "bytes", "", "bytes=" + "9" * 5000],
)
def test_a_range_that_makes_no_sense_is_ignored(http: httpx.Client, url: str, asked: str) -> None:
    answer = http.get(url, headers={"Range": asked})

    assert (answer.status_code, len(answer.content)) == (200, len(SENT))


@pytest.mark.parametrize("asked", ["bytes=1000000-", "bytes=5000000-6000000", "bytes=-0"])
def test_a_range_after_the_end_is_refused(http: httpx.Client, url: str, asked: str) -> None:
    answer = http.get(url, headers={"Range": asked})

    problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */1000000"


@pytest.mark.parametrize(
    ("condition", "status"),
    [(ETAG, 206), ('"other"', 200), (f"W/{ETAG}", 200), ("Sat, 21 Nov 2026 00:00:00 GMT", 200)],
)
def test_a_range_of_something_else_is_all_of_it(
    http: httpx.Client, url: str, condition: str, status: int
) -> None:
    headers = {"Range": "bytes=0-9", "If-Range": condition}

    assert http.get(url, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("known", "status"),
    [(ETAG, 304), (f"W/{ETAG}", 304), (f'"a", {ETAG}', 304), ("*", 304), ('"a"', 200), (ETAG[:-1], 200)],
)
def test_what_the_client_has_is_not_sent_again(http: httpx.Client, url: str, known: str, status: int) -> None:
    answer = http.get(url, headers={"If-None-Match": known, "Range": "bytes=0-9"})

    assert answer.status_code == (206 if status == 200 else 304)
    assert answer.headers["etag"] == ETAG
    assert status == 200 or answer.content == b""


HOSTILE = [
    'a"b.onnx',
    "a\r\nSet-Cookie: x=1",
    "größe 模型.onnx",
    "..\\..\\x",
    "a;b=c,d",
    "%41%00",
    "\x7f\x1b",
    "\udcff",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_safe_in_a_header(name: str) -> None:
    value = disposition(name)

    assert re.fullmatch(
        r"attachment; filename=\"[A-Za-z0-9 ._+()-]*\"; filename\*=UTF-8''[A-Za-z0-9._~%-]*", value
    )
    assert value.encode("ascii")


def test_a_hostile_name_comes_back_whole(service: Service, http: httpx.Client, url: str) -> None:
    name = 'mo"del\r\nX-Evil: 1 größe.onnx'
    with service.database.writing() as db:
        version_id = url.split("/")[3]
        db.execute(update(VersionFile).where(VersionFile.version_id == version_id).values(path=name))

    answer = http.get(url)

    assert "x-evil" not in answer.headers
    assert answer.headers["content-disposition"].endswith(
        "mo%22del%0D%0AX-Evil%3A%201%20gr%C3%B6%C3%9Fe.onnx"
    )


def test_several_files_come_as_a_zip(http: httpx.Client) -> None:
    sent = {"m.onnx": content(300_000), "data/w.bin": content(700_000)}
    for value in sent.values():
        http.put(f"/v1/blobs/{hashlib.sha256(value).hexdigest()}", content=value)
    files = {path: hashlib.sha256(value).hexdigest() for path, value in sent.items()}
    version = http.post("/v1/models", json={"name": "two", "files": files}).json()
    url = version["links"]["content"]

    first, second, head = http.get(url), http.get(url), http.head(url)

    with zipfile.ZipFile(io.BytesIO(first.content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == sent
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
    assert first.headers["content-type"] == "application/zip"
    assert 'filename="two.zip"' in first.headers["content-disposition"]
    assert first.content == second.content
    assert head.headers["etag"] == first.headers["etag"]
    known = {"If-None-Match": first.headers["etag"]}
    assert http.get(url, headers=known).status_code == 304
    one = http.get(url, params={"path": "data/w.bin"}, headers={"Range": "bytes=5-9"})
    assert (one.status_code, one.content) == (206, sent["data/w.bin"][5:10])
    assert 'filename="w.bin"' in one.headers["content-disposition"]


def test_a_candidate_and_its_artifact_are_the_same_file(
    service: Service, tenant: Tenant, stranger: Tenant
) -> None:
    job = finished(service, tenant)
    candidate = factories.candidates_of(service.database, job)[0].id
    shown = tenant.http.get(f"/v1/candidates/{candidate}").json()

    urls = [f"/v1/candidates/{candidate}/content", f"/v1/artifacts/{shown['artifact']}/content"]
    first, second = (tenant.http.get(url) for url in urls)

    assert first.content == second.content
    assert first.headers["etag"] == f'"{hashlib.sha256(first.content).hexdigest()}"'
    for url in urls:
        assert tenant.http.head(url).headers["etag"] == first.headers["etag"]
        assert tenant.http.get(url, headers={"Range": "bytes=2-"}).content == first.content[2:]
        problem(stranger.http.get(url), 404, "not_found")


def reader(service: Service, http: httpx.Client, url: str) -> socket.socket:
    """A connection that asked for a download and has little room for it."""
    host, port = service.address
    request = f"GET {url} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {http.headers['authorization']}\r\n\r\n"
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, port))
    connection.sendall(request.encode())
    return connection


def test_many_downloads_at_once_are_all_served(http: httpx.Client, url: str) -> None:
    def downloaded(_: int) -> bytes:
        return hashlib.sha256(http.get(url).content).digest()

    with ThreadPoolExecutor(100) as pool:
        found = set(pool.map(downloaded, range(100)))

    assert found == {hashlib.sha256(SENT).digest()}


def test_a_reader_that_takes_nothing_is_cut_off(
    service: Service, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "IDLE_SECONDS", 0.2)
    ended, stream = threading.Event(), download._Download.stream_response

    async def told(response: download._Download, send: Send) -> None:
        await stream(response, send)
        ended.set()

    monkeypatch.setattr(download._Download, "stream_response", told)
    sent = content(4 * MIB - 1000)
    url = http.post("/v1/models", files={"file": ("m.onnx", sent)}).json()["links"]["content"]

    with reader(service, http, url) as connection:
        assert ended.wait(SECONDS)
        received = sum(len(piece) for piece in iter(lambda: connection.recv(65536), b""))

    assert received < len(sent)


@pytest.mark.parametrize("asked", ["bytes=0-", "bytes=999990-"])
def test_the_connection_breaks_when_an_object_is_shorter_than_its_row(
    service: Service, http: httpx.Client, asked: str
) -> None:
    before, unlike_others = set(service.objects()), asked.encode() + SENT
    url = http.post("/v1/models", files={"file": ("m.onnx", unlike_others)}).json()["links"]["content"]
    (stored,) = set(service.objects()) - before
    os.truncate(stored, 1000)

    with pytest.raises(httpx.RemoteProtocolError):
        http.get(url, headers={"Range": asked})


def test_readers_that_do_not_read_hold_nobody_up(service: Service, http: httpx.Client, url: str) -> None:
    idle = [reader(service, http, url) for _ in range(60)]  # more than there are threads

    assert http.get(url).content == SENT

    for connection in idle:
        connection.close()


def test_a_candidates_model_is_downloaded_once(service: Service, tenant: Tenant) -> None:
    job = finished(service, tenant)
    candidate = tenant.http.get(f"/v1/jobs/{job}/candidates").json()["items"][1]
    listed = {a["id"]: a for a in tenant.http.get(f"/v1/jobs/{job}/artifacts").json()["items"]}
    artifact = listed[candidate["artifact"]]

    first = tenant.http.get(candidate["links"]["content"])
    etag = first.headers["etag"]
    again = tenant.http.get(artifact["links"]["content"], headers={"If-None-Match": etag})
    other = tenant.http.get(artifact["links"]["content"], headers={"If-None-Match": '"x"'})

    assert (first.status_code, len(first.content)) == (200, artifact["size"])
    assert etag == f'"{artifact["sha256"]}"'
    name = "02-static_int8.onnx"
    assert first.headers["content-disposition"] == f"attachment; filename=\"{name}\"; filename*=UTF-8''{name}"
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert (other.status_code, other.content) == (200, first.content)


def test_a_candidate_that_has_no_model_cannot_be_downloaded(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    factories.work_off(service.database, service.storage, job, until="build")
    candidate = tenant.http.get(f"/v1/jobs/{job}/candidates").json()["items"][0]

    assert "content" not in candidate["links"]
    answer = tenant.http.get(f"/v1/candidates/{candidate['id']}/content")
    assert "planned" in problem(answer, 404, "not_found")["detail"]


@pytest.mark.parametrize(
    "filename",
    ['a"b.onnx', "a\r\nSet-Cookie: x=y", "ünïcode ☃.onnx", "../../etc/passwd", "a;b=c.onnx", "%2e%2e"],
)
def test_a_hostile_name_stays_inside_its_header(service: Service, tenant: Tenant, filename: str) -> None:
    job = finished(service, tenant)
    artifact = tenant.http.get(f"/v1/jobs/{job}/artifacts").json()["items"][0]["id"]
    with service.database.writing() as db:
        db.execute(update(Artifact).where(Artifact.id == artifact).values(filename=filename))

    answer = tenant.http.get(f"/v1/artifacts/{artifact}/content")

    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    kind, _, name = answer.headers["content-disposition"].partition("filename*=UTF-8''")
    assert re.fullmatch(r'attachment; filename="[A-Za-z0-9._ -]*"; ', kind)
    assert unquote(name) == filename
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%._-~")
