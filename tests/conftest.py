"""Servers for the tests that need them; each is started once, when the first test asks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import make_url

from tests import servers

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A Postgres server; take databases of your own from `fresh_postgres`."""
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with servers.redis() as url:
        yield url


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


def migrate(url: str) -> None:
    """Bring the database at this URL up to date."""
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    command.upgrade(config, "head")
