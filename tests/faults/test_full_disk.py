"""A disk that is full under the store and the engine's work, and one that is full under the database."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from app.storage import LocalStorage
from tests.app.tus import CHUNK, TUS
from tests.faults import parts
from tests.faults.conftest import Report
from tests.faults.disks import Disk, small_disk
from tests.faults.promises import Client, Log, ended, job, verify
from tests.faults.test_cut_uploads import resume

JOBS = 4
BODY = os.urandom(500_000)
BUILD_S = 20
BUILDS = "SELECT 1 FROM steps WHERE kind = 'build' AND state = 'running'"
WAIT = "SELECT DISTINCT kind FROM steps WHERE state = 'queued' AND attempt > 0 AND not_before > 0"

pytestmark = pytest.mark.long


def on_disk(disk: Disk) -> parts.Shape:
    """A service whose store and work are on this disk."""
    return parts.Shape(inside=disk.inside, more={"FEWBITS_HOME": str(disk.path)})


def test_what_does_not_fit_is_refused_or_waits_and_goes_on_when_there_is_space(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    """Uploads get 507; a step whose disk is full waits, at no cost."""
    log, sha256 = Log(), hashlib.sha256(BODY).hexdigest()
    with (
        small_disk(home / "disk", "32m") as disk,
        parts.cluster(home, postgres, on_disk(disk)) as cluster,
        Client(cluster, log) as client,
    ):
        version = client.upload({}, "model")
        client.submit(client.upload({"slow": {"build": BUILD_S}}, "slow"), "quantizing")
        made = client.send("POST", "/v1/uploads", headers={**TUS, "Upload-Length": str(len(BODY))})
        path = made.headers["location"]
        assert cluster.until(lambda: postgres.execute(BUILDS, cluster.database))

        disk.fill()
        headers = {**CHUNK, "Upload-Offset": "0"}
        form = {"file": ("m.onnx", BODY)}
        refused = [
            client.once("PUT", f"/v1/blobs/{sha256}", content=BODY),
            client.once("PATCH", path, headers=headers, content=BODY),
            client.once("POST", "/v1/models", files=form),
        ]
        for n in range(JOBS):
            client.submit(version, f"job-{n}")
        assert cluster.until(
            lambda: {("build",), ("prepare",)} <= set(postgres.execute(WAIT, cluster.database))
        )
        disk.free()

        resume(client, path, BODY)
        assert cluster.until(lambda: ended(cluster))
        found = verify(log, cluster.database_url, LocalStorage(disk.outside / "blobs"))
    assert [answer.status_code for answer in refused if answer] == [507, 507, 507]
    assert found.states == {"succeeded": JOBS + 1}
    assert found.losses == 0
    figure(f"3 uploads refused with 507, a build and {JOBS} preparations waited: {found}")


def test_a_database_without_space_refuses_and_goes_on_when_there_is_some(home: Path, figure: Report) -> None:
    log = Log()
    with parts.postgres() as postgres, small_disk(postgres.folder / "disk", "160m") as disk:
        postgres.stop()
        subprocess.run([*disk.inside, "cp", "-a", str(postgres.data), str(disk.path)], check=True)
        postgres.inside, postgres.data = disk.inside, disk.path / postgres.data.name
        postgres.start()
        with parts.cluster(home, postgres) as cluster, Client(cluster, log) as client:
            version = client.upload({}, "model")
            disk.fill()
            asked = 0
            while not log.statuses[503]:
                key, asked = f"job-{asked}", asked + 1
                answer = client.once("POST", "/v1/jobs", **job(version, key))
                if answer is not None and answer.is_success:
                    log.acknowledge(key, answer.json()["id"])
            before = len(log.jobs)
            disk.free()
            postgres.start()
            client.submit(version, key)
            assert cluster.until(lambda: ended(cluster))
            found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
    assert before < asked
    figure(f"{before} jobs accepted before the disk was full, then 503; all done after: {found}")
