"""A whole job on four hosts without a common file system: `make test-hosts`."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.db.models import Project, Step
from app.db.session import Database
from app.services import keys
from tests import factories, object_stores
from tests.hosts.hosts import ROOT, Host, Place, host, isolated
from tests.waiting import SECONDS, in_time

DIGITS = ROOT / "examples" / "digits" / "digits.onnx"
SPEC = {"recipes": [{"method": "dynamic_int8"}], "benchmark": {"max_seconds": 1}}


@dataclass(frozen=True)
class Cluster:
    """An API, a worker, a benchmark worker and a control worker, each on its host."""

    http: httpx.Client
    database: Database
    hosts: dict[str, Host]


@pytest.fixture(params=["database", "s3"])
def cluster(
    request: pytest.FixtureRequest, own_postgres_url: str, redis_url: str, tmp_path: Path
) -> Iterator[Cluster]:
    settings = {"FEWBITS_DATABASE_URL": own_postgres_url, "FEWBITS_REDIS_URL": redis_url}
    if request.param == "database":
        settings |= {"FEWBITS_STORAGE_URL": "database:"}
    else:
        settings |= {"FEWBITS_STORAGE_URL": request.getfixturevalue("s3_url")}
        settings |= object_stores.environment(request.getfixturevalue("s3_server"))
    place = Place(tmp_path / "host", tmp_path / "log")
    place.private.mkdir()
    place.shared.mkdir()
    socket = place.shared / "api.sock"
    commands = {
        "api": ["app.listen", f"--uds={socket}"],
        "worker": ["app.start", "worker"],
        "benchmark": ["app.start", "benchmark"],
        "control": ["app.start", "control"],
    }
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(host(name, words, place, settings)) for name, words in commands.items()
        }
        assert in_time(socket.exists)
        database = Database(own_postgres_url)
        stack.callback(database.dispose)
        client = httpx.Client(
            base_url="http://api",
            transport=httpx.HTTPTransport(uds=str(socket)),
            headers={"Authorization": f"Bearer {new_key(database)}"},
            timeout=SECONDS,
        )
        yield Cluster(stack.enter_context(client), database, started)


def new_key(database: Database) -> str:
    project = factories.make_project(database)
    with database.writing() as db:
        return keys.create(db, db.get_one(Project, project), "a test's", ("read", "write")).text


def ended(http: httpx.Client) -> dict[str, Any]:
    """A job that has ended."""
    answer = http.post(
        "/v1/quantize",
        files={"model": ("digits.onnx", DIGITS.read_bytes())},
        data={"spec": json.dumps(SPEC)},
        headers={"Prefer": f"wait={SECONDS}"},
    )
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.long
def test_a_job_ends_well_on_hosts_that_share_no_files(cluster: Cluster) -> None:
    job = ended(cluster.http)

    assert (job["state"], job["error"]) == ("succeeded", None)
    best = cluster.http.get(f"/v1/candidates/{job['best']}").json()
    assert best["state"] == "measured"
    answer = cluster.http.get(best["links"]["content"])
    if answer.status_code == 307:
        sha256, answer = answer.headers["etag"], httpx.get(answer.headers["location"])
    else:
        sha256 = answer.headers["etag"]
    assert sha256 == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    assert len(answer.content) == best["size"]["bytes"]
    assert_apart(cluster)


def assert_apart(cluster: Cluster) -> None:
    """Each host did its own part, with locks of its own, and left nothing on another's disk."""
    files = {name: one.files() for name, one in cluster.hosts.items()}
    assert not [path for path in files["api"] if "lock" in path]
    for name in ("worker", "benchmark"):
        assert "home/locks/host.lock" in files[name]
    assert not [path for found in files.values() for path in found if "blobs" in path or "work/" in path]
    with cluster.database.reading() as db:
        workers = {step.kind: step.worker or "" for step in db.scalars(select(Step))}
    if isolated():
        assert workers["build"].startswith("worker:")
        assert workers["benchmark"].startswith("benchmark:")
