"""What changes or breaks off between the service and a store on another host is found and repaired."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import make_url, update

from app.db.models import Step
from app.db.session import Database
from app.services import blobs, models, scrubbing
from app.services.outcomes import Record
from app.settings import Settings
from app.storage import LocalStorage, Storage, open_storage
from app.storage.base import CHUNK, chunks
from fewbits import Client
from fewbits.downloads import fetch_file
from tests import factories
from tests.app import tus
from tests.app.conftest import Service, new_tenant, serving
from tests.e2e.proxies import Harm, Line, line_to
from tests.waiting import in_time
from worker import run
from worker.process import Process
from worker.steps import STEPS
from worker.work import Work

SENT = os.urandom(9 * CHUNK + 5)  # more than one piece of every store
SHA256 = hashlib.sha256(SENT).hexdigest()
MISMATCH = b"<Error><Code>XAmzContentSHA256Mismatch</Code></Error>"
Inspect = Callable[[str], None]


@dataclass(frozen=True)
class Far:
    """Settings of a service whose store is at the other end of a line."""

    settings: Settings
    line: Line


@pytest.fixture(params=["database", "s3"])
def far(
    request: pytest.FixtureRequest, own_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Far]:
    home = tmp_path / "home"
    if request.param == "database":
        there = make_url(own_postgres_url)
        with line_to(f"tcp://{there.host}:{there.port}") as line:
            lined = there.set(port=urlsplit(line.url).port).render_as_string(hide_password=False)
            yield Far(Settings(home=home, database_url=lined, storage_url="database:"), line)
    else:
        storage_url = request.getfixturevalue("s3_url")
        with line_to(os.environ["AWS_ENDPOINT_URL"]) as line:
            monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
            yield Far(Settings(home=home, database_url=own_postgres_url, storage_url=storage_url), line)


@dataclass(frozen=True)
class Inspected:
    """A version whose model lies in the store, and the worker that is to inspect it."""

    process: Process
    project: str
    version: str
    step: str
    staged: list[bytes]

    @property
    def state(self) -> str:
        return factories.row(self.process.database, self.version).state

    def run(self) -> None:
        """As soon as it may."""
        with self.process.database.writing() as db:
            db.execute(update(Step).values(not_before=0))
        run.run(self.process, self.step)


@pytest.fixture
def keep(far: Far, rings: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Inspected]]:
    """Stores the bytes over the line, and queues the inspection."""
    storage, database, staged = open_storage(far.settings), Database(far.settings.database), []

    def stored() -> Inspected:
        project, received = factories.make_project(database), factories.store(storage, SENT)
        with database.writing() as db:
            blob = blobs.keep(db, storage, project, received, 3600)
            version = models.add_version(db, project, "m", [("m.onnx", blob)], {}).id

        def inspect(work: Work) -> Record:
            staged.append(work.stage(SHA256, "m.onnx").read_bytes())
            return factories.accepted(version)

        monkeypatch.setitem(STEPS, "inspect_version", inspect)
        worker = Process(far.settings, database, storage, "a worker")
        return Inspected(worker, project, version, rings[0], staged)

    yield stored
    storage.close()
    database.dispose()


@pytest.mark.parametrize("harm", ["change", "break"])
def test_a_step_gets_its_bytes_whole_whatever_happens_on_the_way(
    far: Far, keep: Callable[[], Inspected], harm: Harm
) -> None:
    inspected = keep()
    far.line.harm["down"].append(harm)

    inspected.run()
    after_one = inspected.state
    scrubbing.scrub(inspected.process.database, inspected.process.storage)
    inspected.run()

    assert far.line.harm["down"] == []
    assert after_one == ("inspecting" if harm == "change" or is_database(far) else "ready")
    assert (inspected.state, inspected.staged) == ("ready", [SENT])


def is_database(far: Far) -> bool:
    return far.settings.storage == "database:"


def test_what_changed_on_its_way_into_a_store_waits_for_the_same_bytes(
    far: Far, keep: Callable[[], Inspected]
) -> None:
    far.line.harm["up"].append("change")
    inspected = keep()
    process = inspected.process

    inspected.run()
    scrubbing.scrub(process.database, process.storage)
    inspected.run()
    waiting = inspected.state
    again = factories.store(process.storage, SENT)
    with process.database.writing() as db:
        blobs.keep(db, process.storage, inspected.project, again, 3600)
    inspected.run()

    assert (waiting, inspected.state, inspected.staged) == ("inspecting", "ready", [SENT])


@contextmanager
def checking(url: str) -> Iterator[str]:
    """The store behind a door that refuses, as Amazon's does, bodies that are not those that were signed."""

    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers["x-amz-content-sha256"] != hashlib.sha256(body).hexdigest():
                self._answer(400, {}, MISMATCH)
                return
            kept = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            answer = behind.request(self.command, url + self.path, content=body, headers=kept)
            self._answer(answer.status_code, answer.headers, answer.content)

        do_GET = do_POST = do_DELETE = do_PUT  # noqa: N815 - the server's names

        def _answer(self, status: int, headers: "httpx.Headers | dict[str, str]", body: bytes) -> None:
            self.send_response_only(status)
            if "etag" in headers:
                self.send_header("etag", headers["etag"])
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with httpx.Client() as behind, ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize("size", [CHUNK, len(SENT)])
def test_a_bucket_that_refuses_what_changed_on_the_way_gets_it_again(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    storage: Storage
    with ExitStack() as stack:
        line = stack.enter_context(line_to(stack.enter_context(checking(os.environ["AWS_ENDPOINT_URL"]))))
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        storage = open_storage(Settings(storage_url=s3_url))
        stack.callback(storage.close)
        line.harm["up"] += ["change", "change"]

        key = factories.store(storage, SENT[:size]).key

        assert line.harm["up"] == []
        with storage.open(key) as file:
            assert b"".join(chunks(file)) == SENT[:size]


def test_an_upload_goes_on_after_its_store_was_cut_off(far: Far, own_postgres_url: str) -> None:
    database = Database(own_postgres_url)
    with ExitStack() as stack:
        stack.callback(database.dispose)
        url = stack.enter_context(serving(far.settings))
        tenant = stack.enter_context(new_tenant(Service(url, database, LocalStorage(far.settings.home))))
        upload = tus.create(tenant.http, len(SENT))
        far.line.harm["up"].append("break")

        def goes_on() -> bool:
            offset = tus.offset(tenant.http, upload)
            return offset == len(SENT) or tus.patch(tenant.http, upload, offset, SENT[offset:]).is_success

        assert in_time(goes_on)
        assert far.line.harm["up"] == []
        made = tenant.http.post("/v1/models", json={"name": "m", "files": {"m.onnx": SHA256}}).json()
        answer = tenant.http.get(made["links"]["content"], follow_redirects=True)

    assert answer.content == SENT


@pytest.mark.parametrize("harm", ["change", "break"])
def test_a_client_gets_its_file_whole_whatever_happens_between_service_and_store(
    far: Far, own_postgres_url: str, tmp_path: Path, harm: Harm
) -> None:
    database, target = Database(own_postgres_url), tmp_path / "m.onnx"
    with ExitStack() as stack:
        stack.callback(database.dispose)
        url = stack.enter_context(serving(far.settings))
        tenant = stack.enter_context(new_tenant(Service(url, database, LocalStorage(tmp_path))))
        key = tenant.http.headers["authorization"].split()[1]
        client = stack.enter_context(Client(url, key))
        made = tenant.http.post("/v1/models", files={"file": ("m.onnx", SENT)}).json()
        far.line.harm["down"].append(harm)

        client.perform(fetch_file(made["links"]["content"], target, lambda _: None))

    assert far.line.harm["down"] == []
    assert target.read_bytes() == SENT
