"""The release before works on the newest schema, alone and beside the newest code: `make test-upgrade`."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import select

from app.db.models import Step
from app.db.session import Database
from app.embedded.tether import tether
from examples.digits import data as digits
from tests import servers
from tests.conftest import migrate
from tests.test_migrations_are_safe import RELEASED
from tests.waiting import SECONDS, in_time

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "digits" / "digits.onnx"
WORKERS = ("worker", "benchmark", "control")
FORM = {
    "spec": """{"recipes": [{"method": "dynamic_int8"}, {"method": "static_int8"}], "reuse": "never",
        "benchmark": {"max_seconds": 1}, "gate": {"max_size_ratio": 0.6}}""",
    "preprocess": "unit",
}

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Release:
    """A release's own code, and what serves its API."""

    folder: Path
    api: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """What all parts of the service share, and where they leave their logs and sockets."""

    database: Database
    environment: dict[str, str]
    folder: Path
    data: bytes


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The last code that knew no revision after RELEASED."""
    scripts = ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))
    (following,) = (script for script in scripts.walk_revisions() if script.down_revision == RELEASED)
    added = git("log", "--diff-filter=A", "--format=%H", "--", following.path).split()
    folder = tmp_path_factory.mktemp("before")
    subprocess.run(["tar", "-x"], input=git("archive", f"{added[-1].decode()}^"), cwd=folder, check=True)
    return Release(folder, ("uvicorn", "app.main:create_app", "--factory"))


def git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True).stdout


@pytest.fixture
def place(postgres_url: str, redis_url: str, tmp_path: Path) -> Iterator[Place]:
    """A database without tables, a broker, and a folder for the bytes."""
    digits.write(digits.held_out(), tmp_path / "digits.npz")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEWBITS_")}
    with servers.fresh_postgres(postgres_url, "upgrade") as url:
        settings = {
            "FEWBITS_HOME": str(tmp_path / "home"),
            "FEWBITS_DATABASE_URL": url,
            "FEWBITS_REDIS_URL": redis_url,
        }
        database = Database(url)
        yield Place(database, kept | settings, tmp_path, (tmp_path / "digits.npz").read_bytes())
        database.dispose()


def ran(release: Release, place: Place, *words: str) -> str:
    """What a module of a release prints."""
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, cwd=release.folder, env=place.environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


@contextmanager
def running(release: Release, place: Place, *words: str) -> Iterator[int]:
    """A module of a release as a process, which is told to stop at the end and does so; its id."""
    with (
        (place.folder / "parts.log").open("ab") as log,
        subprocess.Popen(
            tether([sys.executable, "-m", *words]),
            cwd=release.folder,
            env=place.environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait(SECONDS)


@contextmanager
def workers(release: Release, place: Place) -> Iterator[set[int]]:
    """One of each kind; their ids."""
    with ExitStack() as stack:
        yield {stack.enter_context(running(release, place, "app.start", part)) for part in WORKERS}


@contextmanager
def api(release: Release, place: Place, key: str) -> Iterator[httpx.Client]:
    socket = place.folder / f"{len(list(place.folder.glob('*.sock')))}.sock"
    transport = httpx.HTTPTransport(uds=str(socket))
    headers = {"Authorization": f"Bearer {key}"}
    with (
        running(release, place, *release.api, f"--uds={socket}"),
        httpx.Client(base_url="http://api", transport=transport, headers=headers, timeout=SECONDS) as http,
    ):
        assert in_time(socket.exists)
        yield http


def begun(http: httpx.Client, place: Place) -> str:
    """Upload model and data, and make a job of them."""
    files = {"model": ("digits.onnx", MODEL.read_bytes()), "data": ("digits.npz", place.data)}
    return str(http.post("/v1/quantize", files=files, data=FORM).raise_for_status().json()["id"])


def does_its_jobs(http: httpx.Client, place: Place, by: Sequence[int] | set[int]) -> str:
    """The main job from the upload to the verdict and the best model; all its steps are these workers'."""
    job = begun(http, place)
    ends_well(http, job)
    with place.database.reading() as db:
        names = db.scalars(select(Step.worker).where(Step.job_id == job, Step.worker.is_not(None))).all()
    assert {int(name.rpartition(":")[2]) for name in names if name} == set(by)
    return job


def ends_well(http: httpx.Client, job: str) -> None:
    assert in_time(lambda: read(http, f"jobs/{job}")["finished_at"])
    assert (read(http, f"jobs/{job}")["state"], read(http, f"jobs/{job}/verdict")["conclusion"]) == (
        "succeeded",
        "pass",
    )
    best = read(http, f"candidates/{read(http, f'jobs/{job}')['best']}")
    assert len(http.get(best["links"]["content"]).raise_for_status().content) == best["size"]["bytes"]


def read(http: httpx.Client, path: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/v1/{path}").raise_for_status().json()
    return found


def test_every_part_may_be_replaced_alone(before: Release, place: Place) -> None:
    now = Release(ROOT, ("app.listen",))
    ran(before, place, "alembic", "upgrade", "head")
    key = ran(before, place, "app.admin", "create-key").split()[-1]

    with workers(before, place) as old:
        with api(before, place, key) as http:
            first = does_its_jobs(http, place, old)
            under_way = begun(http, place)
            migrate(place.environment["FEWBITS_DATABASE_URL"])
            ends_well(http, under_way)
            does_its_jobs(http, place, old)
        with api(now, place, key) as http:
            does_its_jobs(http, place, old)
    with workers(now, place) as new:
        with api(before, place, key) as http:
            last = does_its_jobs(http, place, new)
            ends_well(http, first)
        with api(now, place, key) as http:
            does_its_jobs(http, place, new)
            for job in (first, under_way, last):
                ends_well(http, job)
