"""The API over real HTTP, on SQLite and on Postgres; every test has a project of its own."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn

from app import broker
from app.db.models import Project
from app.db.session import Database
from app.domain.gate import Gate
from app.domain.report import Figures
from app.listen import BoundedProtocol
from app.main import create_app
from app.secrets import new_key as new_secret_key
from app.services import keys
from app.settings import Settings
from app.storage import LocalStorage
from tests import factories, object_stores
from tests.object_stores import Store
from tests.waiting import SECONDS, in_time

MIB = 1024 * 1024
UPLOAD_LIMIT = 4 * MIB


@dataclass(frozen=True)
class Service:
    """A running API, and what lies behind it."""

    url: str
    database: Database
    storage: LocalStorage
    settings: Settings = field(default_factory=Settings)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for what speaks over a bare socket."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def objects(self) -> list[Path]:
        """Everything in the blob store, finished or not."""
        return sorted(path for path in self.storage.root.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Tenant:
    """A project, and a client with a key of it."""

    project: str
    http: httpx.Client


@cache
def _document() -> dict[str, Any]:
    """What takes every API a second to write, and is the same for all."""
    return create_app().openapi()


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The URL of an API that is served by a thread."""
    app = create_app(settings)
    app.openapi = _document  # type: ignore[method-assign]
    config = uvicorn.Config(
        app,
        port=0,
        http=BoundedProtocol,
        log_level="error",
        ws="none",
        timeout_graceful_shutdown=2,
        timeout_keep_alive=SECONDS,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert in_time(lambda: server.started or not thread.is_alive())
        assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(params=["folder", "sqlite", "postgres", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A blob store of each kind."""
    match request.param:
        case "folder":
            opened = object_stores.local(tmp_path / "blobs")
        case "s3":
            opened = object_stores.s3(request.getfixturevalue("s3_url"))
        case kind:
            url = request.getfixturevalue("sqlite_url" if kind == "sqlite" else "own_postgres_url")
            behind = Database(url)
            request.addfinalizer(behind.dispose)  # noqa: PT021 - after the store
            opened = object_stores.database(behind, url)
    yield opened
    opened.storage.close()


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, quiet_broker: None
) -> Iterator[Service]:
    assert quiet_broker is None
    home = tmp_path_factory.mktemp("service")
    settings = Settings(
        home=home,
        database_url=_database_of(request, home),
        max_upload_bytes=UPLOAD_LIMIT,
        max_json_bytes=MIB,
        secret_key=new_secret_key(),
        webhook_allow=(ip_network("127.0.0.0/8"),),
    )
    database = Database(settings.database)
    with serving(settings) as url:
        yield Service(url, database, LocalStorage(home / "blobs"), settings)
    database.dispose()


def _database_of(request: pytest.FixtureRequest, home: Path) -> str:
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), home / "fewbits.db")
        return ""
    make: Callable[[str], str] = request.getfixturevalue("fresh_postgres")
    return make("service")


@pytest.fixture(scope="session")
def quiet_broker(redis_url: str) -> Iterator[None]:
    """A real broker on which nobody listens."""
    before = broker.celery.conf.broker_url
    broker.celery.conf.broker_url = redis_url
    yield
    broker.celery.conf.broker_url = before


@pytest.fixture
def tenant(service: Service) -> Iterator[Tenant]:
    with new_tenant(service) as found:
        yield found


@pytest.fixture
def stranger(service: Service) -> Iterator[Tenant]:
    """Somebody from another project."""
    with new_tenant(service) as found:
        yield found


@pytest.fixture
def http(tenant: Tenant) -> httpx.Client:
    return tenant.http


@pytest.fixture
def version(service: Service, tenant: Tenant) -> str:
    """A version that is ready."""
    return factories.make_version(service.database, tenant.project)


@pytest.fixture
def dataset(service: Service, tenant: Tenant) -> str:
    """A dataset that is ready."""
    return factories.make_dataset(service.database, tenant.project)


@pytest.fixture
def project(database: Database) -> str:
    """A project in a database that no API serves."""
    return factories.make_project(database)


def finished(
    service: Service,
    tenant: Tenant,
    gate: Gate | None = None,
    measured: Callable[[int], Figures] = lambda _position: factories.figures(),
) -> str:
    """The id of a job that a worker has brought to its end."""
    job = factories.make_job(service.database, tenant.project, gate=gate)
    factories.work_off(service.database, service.storage, job, measured)
    return job


@contextmanager
def new_tenant(service: Service, scopes: tuple[str, ...] = ("read", "write")) -> Iterator[Tenant]:
    project = factories.make_project(service.database)
    headers = {"Authorization": f"Bearer {new_key(service, project, scopes)}"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=SECONDS) as client:
        yield Tenant(project, client)


def new_key(service: Service, project: str, scopes: tuple[str, ...]) -> str:
    with service.database.writing() as db:
        return keys.create(db, db.get_one(Project, project), "a test's", scopes).text
