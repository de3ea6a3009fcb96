"""An API that is told to stop, while clients wait for jobs."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.db.session import Database
from app.settings import Settings
from app.storage import LocalStorage
from tests import factories
from tests.app.conftest import Service, new_tenant, serving
from tests.app.problems import problem
from tests.app.uploading import content
from tests.waiting import in_time

WAITING = {"Prefer": "wait=600"}


@pytest.fixture
def running(tmp_path: Path, migrated_sqlite: Path, quiet_broker: None) -> Iterator[tuple[Service, ExitStack]]:
    """A service, and what stops it when it is closed."""
    assert quiet_broker is None
    settings = Settings(home=tmp_path, database_url="", redis_url="")
    shutil.copy(migrated_sqlite, tmp_path / "fewbits.db")
    database = Database(settings.database)
    with ExitStack() as stop:
        url = stop.enter_context(serving(settings))
        yield Service(url, database, LocalStorage(tmp_path / "blobs"), settings), stop
    database.dispose()


def test_who_waits_while_the_api_stops_is_told_how_the_job_stands(
    running: tuple[Service, ExitStack],
) -> None:
    service, stop = running
    with new_tenant(service) as tenant, ThreadPoolExecutor() as pool:
        http, version = tenant.http, factories.make_version(service.database, tenant.project)
        job = pool.submit(http.post, "/v1/jobs", json={"version": version}, headers=WAITING)
        files = {"model": ("m.onnx", content())}
        verdict = pool.submit(http.post, "/v1/quantize?status=http", files=files, headers=WAITING)
        assert in_time(lambda: len(http.get("/v1/jobs").json()["items"]) == 2)
        stop.close()

        assert (job.result().status_code, job.result().json()["state"]) == (202, "queued")
        assert "has not ended yet" in problem(verdict.result(), 409, "job_not_finished")["detail"]
