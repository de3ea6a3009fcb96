"""A real receiver, a worker that may send to it, and a project."""

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.db.session import Database
from app.secrets import new_key
from app.settings import Settings
from app.storage import LocalStorage
from tests import factories
from tests.receiving import Receiver, receiving
from worker.process import Process


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def process(database: Database, storage: LocalStorage, tmp_path: Path) -> Process:
    settings = Settings(home=tmp_path, secret_key=new_key(), webhook_allow=(ip_network("127.0.0.0/8"),))
    return Process(settings, database, storage, "this worker")


@pytest.fixture
def project(database: Database) -> str:
    return factories.make_project(database)
