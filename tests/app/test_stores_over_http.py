"""The API over the stores that hosts can share: what is uploaded comes back, and goes when deleted."""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.db.session import Database
from app.settings import Settings
from app.storage import LocalStorage
from fewbits import Client
from fewbits.downloads import fetch_file
from tests import object_stores
from tests.app import tus
from tests.app.conftest import MIB, Service, new_tenant, serving
from tests.app.problems import problem
from tests.e2e.proxies import line_to
from tests.object_stores import Store

SENT = os.urandom(9 * MIB + 1)
SHA256 = hashlib.sha256(SENT).hexdigest()


@dataclass(frozen=True)
class Served:
    """An API over a store, with a client that follows where it is sent."""

    http: httpx.Client
    store: Store
    settings: Settings

    @property
    def redirects(self) -> bool:
        return self.settings.storage.startswith("s3") and self.settings.s3_downloads == "redirect"


@pytest.fixture(params=["database", "s3"])
def served(
    request: pytest.FixtureRequest, own_postgres_url: str, tmp_path: Path, quiet_broker: None
) -> Iterator[Served]:
    assert quiet_broker is None
    with ExitStack() as stack:
        database = Database(own_postgres_url)
        stack.callback(database.dispose)
        if request.param == "database":
            storage_url, store = "database:", object_stores.database(database, own_postgres_url)
        else:
            storage_url = request.getfixturevalue("s3_url")
            store = object_stores.s3(storage_url)
        stack.callback(store.storage.close)
        settings = Settings(
            home=tmp_path,
            database_url=own_postgres_url,
            storage_url=storage_url,
            s3_downloads="redirect" if request.param == "s3" else "stream",
        )
        url = stack.enter_context(serving(settings))
        service = Service(url, database, LocalStorage(tmp_path), settings)
        tenant = stack.enter_context(new_tenant(service))
        tenant.http.follow_redirects = True
        yield Served(tenant.http, store, settings)


def uploaded_in_parts(http: httpx.Client) -> None:
    url, middle = tus.create(http, len(SENT)), 5 * MIB + 3
    for start, end in ((0, middle), (middle, len(SENT))):
        answer = tus.patch(http, url, start, SENT[start:end])
        assert answer.status_code == 204, answer.text


@pytest.mark.parametrize("served", ["database", "s3", "s3 that clients do not reach"], indirect=True)
def test_what_was_sent_in_parts_comes_back(served: Served) -> None:
    uploaded_in_parts(served.http)
    version = served.http.post("/v1/models", json={"name": "m", "files": {"mö.onnx": SHA256}}).json()
    url = version["links"]["content"]

    answer = served.http.get(url)

    assert [first.status_code for first in answer.history] == [307] * served.redirects
    assert answer.content == SENT
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].endswith("filename*=UTF-8''m%C3%B6.onnx")
    first = answer.history[0] if served.redirects else answer
    assert first.headers["etag"] == f'"{SHA256}"'
    assert "authorization" not in answer.request.headers or not served.redirects


def test_ranges_head_and_conditions_hold(served: Served) -> None:
    version = served.http.post("/v1/models", files={"file": ("m.onnx", SENT)}).json()
    url = version["links"]["content"]

    part, head = served.http.get(url, headers={"Range": "bytes=8388600-8388700"}), served.http.head(url)
    known = served.http.get(url, headers={"If-None-Match": f'"{SHA256}"'})

    assert (part.status_code, part.content) == (206, SENT[8388600:8388701])
    assert (head.status_code, head.history, head.content) == (200, [], b"")
    assert head.headers["content-length"] == str(len(SENT))
    assert head.headers["etag"] == f'"{SHA256}"'
    assert (known.status_code, known.history, known.content) == (304, [], b"")


def test_several_files_are_packed_by_the_service(served: Served) -> None:
    files = [("file", ("m.onnx", SENT)), ("file", ("m.data", b"weights"))]
    version = served.http.post("/v1/models", files=files).json()

    answer = served.http.get(version["links"]["content"])

    assert answer.history == []
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "m.onnx": SENT,
            "m.data": b"weights",
        }


def test_what_is_refused_or_deleted_leaves_nothing(served: Served) -> None:
    refused = served.http.put(f"/v1/blobs/{'0' * 64}", content=SENT)
    problem(refused, 422, "digest_mismatch")
    uploaded_in_parts(served.http)
    version = served.http.post("/v1/models", json={"name": "m", "files": {"m.onnx": SHA256}}).json()
    assert served.store.traces() > 0

    assert served.http.delete(f"/v1/models/{version['model']}").status_code == 204

    assert served.store.traces() == 0


def test_the_client_fetches_from_the_bucket_and_goes_on_where_the_line_broke(
    s3_url: str, own_postgres_url: str, tmp_path: Path, quiet_broker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quiet_broker is None
    settings = Settings(home=tmp_path, database_url=own_postgres_url, storage_url=s3_url)
    database = Database(own_postgres_url)
    target = tmp_path / "m.onnx"
    with line_to(os.environ["AWS_ENDPOINT_URL"]) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        with (
            serving(settings) as url,
            new_tenant(Service(url, database, LocalStorage(tmp_path))) as tenant,
            Client(url, tenant.http.headers["authorization"].split()[1]) as client,
        ):
            version = tenant.http.post("/v1/models", files={"file": ("m.onnx", SENT)}).json()
            before, line.down = line.connections, [3 * MIB, 2 * MIB]
            client.perform(fetch_file(version["links"]["content"], target, lambda _: None))

    assert target.read_bytes() == SENT
    assert line.connections - before == 3
    database.dispose()


def test_a_bucket_that_does_not_answer_is_unavailable(
    s3_url: str, sqlite_url: str, tmp_path: Path, quiet_broker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quiet_broker is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("app.storage.bucket.ATTEMPTS", 1)
    settings = Settings(home=tmp_path, database_url=sqlite_url, storage_url=s3_url)
    database = Database(sqlite_url)
    with serving(settings) as url, new_tenant(Service(url, database, LocalStorage(tmp_path))) as tenant:
        answer = tenant.http.put(f"/v1/blobs/{SHA256}", content=SENT)

    assert "blob store" in problem(answer, 503, "unavailable")["detail"]
    assert answer.headers["retry-after"] == "5"
    database.dispose()
