"""Servers for the tests that need them; each is started once, when the first test asks."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings
from redis import Redis
from sqlalchemy import make_url

from app import broker
from app.db.session import Database
from app.storage import LocalStorage
from tests import object_stores, servers
from tests.waiting import SECONDS

TESTS = Path(__file__).parent
ROOT = TESTS.parent
LONGEST = (TESTS / "e2e", TESTS / "app" / "test_serve.py")
settings.register_profile("busy host", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy host")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first: begun last, they would keep one process busy beside idle ones."""
    items.sort(key=lambda item: not any(item.path.is_relative_to(longest) for longest in LONGEST))


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """What a busy host answers late is not away, but for the tests that say so."""
    with pytest.MonkeyPatch.context() as patch:
        for phase in ("connect", "read", "write", "pool"):
            patch.setattr(DEFAULT_TIMEOUT_CONFIG, phase, SECONDS)
        for name in broker.WRITE_OPTIONS:
            patch.setitem(broker.WRITE_OPTIONS, name, SECONDS)
        patch.setattr("app.api.rates.PATIENCE_S", SECONDS)
        patch.setattr("app.db.session.STATEMENT_SECONDS", SECONDS)
        patch.setattr("app.db.session.SILENT_SECONDS", SECONDS)
        patch.setattr("app.listen.HEAD_SECONDS", SECONDS)
        yield


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A Postgres server; take databases of your own from `fresh_postgres`."""
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with servers.redis() as url:
        yield url


@pytest.fixture
def empty_redis_url(redis_url: str) -> str:
    """The broker without the rings of other tests, all of which a worker would hear first."""
    with Redis.from_url(redis_url.replace("redis+socket://", "unix://")) as client:
        client.flushall()
    return redis_url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    with servers.s3() as url:
        yield url


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An S3 bucket of this test's own, as a storage URL; the environment says where it is."""
    for name, value in object_stores.environment(s3_server).items():
        monkeypatch.setenv(name, value)
    return object_stores.new_bucket()


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> Iterator[str]:
    """The database that the migrations make: the template for the others, so leave it alone."""
    with servers.fresh_postgres(postgres_url, "migrated") as url:
        migrate(url)
        yield url


@pytest.fixture(scope="session")
def fresh_postgres(postgres_url: str, migrated_postgres: str) -> Iterator[Callable[[str], str]]:
    """Makes a migrated database with this name; it lasts until the end of the run."""
    template = make_url(migrated_postgres).database or ""
    with ExitStack() as databases:
        yield lambda name: databases.enter_context(servers.fresh_postgres(postgres_url, name, template))


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the migrations make: copy it."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """A migrated SQLite database of this test's own."""
    path = shutil.copy(migrated_sqlite, tmp_path / "fewbits.db")
    return f"sqlite:///{path}"


@pytest.fixture
def own_postgres_url(postgres_url: str, migrated_postgres: str) -> Iterator[str]:
    """A migrated Postgres database of this test's own."""
    template = make_url(migrated_postgres).database or ""
    with servers.fresh_postgres(postgres_url, "own", template) as url:
        yield url


@pytest.fixture(params=["sqlite_url", "own_postgres_url"], ids=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def database(database_url: str, rings: list[str]) -> Iterator[Database]:
    """A migrated database: the test runs on SQLite and on Postgres."""
    assert rings == []
    opened = Database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def postgres_database(own_postgres_url: str, rings: list[str]) -> Iterator[Database]:
    """For what only a database with many writers can show."""
    assert rings == []
    opened = Database(own_postgres_url)
    yield opened
    opened.dispose()


@pytest.fixture
def rings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that were rung for, instead of messages that nobody would hear."""
    broker.forgot()  # a test before may have emptied it: the first sweep would ring for all once more
    heard: list[str] = []
    monkeypatch.setattr(broker, "ring", lambda step_id, _kind: heard.append(step_id))
    return heard


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "blobs")


def migrate(url: str) -> None:
    """Bring the database at this URL up to date."""
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    command.upgrade(config, "head")
