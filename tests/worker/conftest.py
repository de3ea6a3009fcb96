"""A worker in this process, with one inspection that is queued."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.db.session import Database
from app.services.outcomes import Record
from app.settings import Settings
from app.storage import LocalStorage
from tests import factories
from worker.process import Process
from worker.steps import STEPS
from worker.work import Work


@pytest.fixture
def process(database: Database, storage: LocalStorage, tmp_path: Path) -> Process:
    return Process(Settings(home=tmp_path), database, storage, "this worker")


@pytest.fixture
def version(database: Database) -> str:
    """A version whose inspection is queued."""
    return factories.make_version(database, factories.make_project(database), ready=False)


@pytest.fixture
def step(database: Database, version: str) -> str:
    return factories.step_of(database, version, "inspect_version").id


@pytest.fixture
def do(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Work], Record]], None]:
    """Sets what an inspection does."""
    return lambda function: monkeypatch.setitem(STEPS, "inspect_version", function)
