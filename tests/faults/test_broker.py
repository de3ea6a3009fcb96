"""A broker that forgets everything again and again, and one that is away for a minute."""

import socket
import time
from pathlib import Path

import pytest

from app.embedded import redis_server
from app.storage import LocalStorage
from tests.faults import parts
from tests.faults.conftest import Report, within
from tests.faults.promises import Client, Log, ended, submitting, verify
from tests.faults.rhythm import Every

JOBS = 100
SUBMIT_EVERY_S = 1.0
FLUSH_EVERY_S = 10.0
PICKED_UP_S = 20
JOBS_WITHOUT_BROKER = 20
AWAY_S = 60.0
DONE_S = 60
PICKUP = (
    "SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY (started_at - created_at) / 1e6) FROM steps "
    "WHERE started_at > 0"
)

pytestmark = pytest.mark.long


def flush(folder: Path) -> None:
    """Let the broker forget everything."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / redis_server.SOCKET))
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(16).startswith(b"+OK")


def test_no_job_is_lost_when_the_broker_forgets_everything(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    log, start = Log(), time.monotonic()
    with (
        parts.cluster(home, postgres) as cluster,
        submitting(cluster, log, range(JOBS), SUBMIT_EVERY_S) as settled,
    ):
        forget = Every(FLUSH_EVERY_S, lambda: flush(home))
        assert cluster.until(settled, forget)
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
        ((pickup_s,),) = postgres.execute(PICKUP, cluster.database)
    assert forget.times > 0
    assert found.states == {"succeeded": JOBS}
    seconds = time.monotonic() - start
    began = within(float(pickup_s), PICKED_UP_S)
    figure(f"{forget.times} flushes in {seconds:.0f} s, 95 % of steps began within {began}: {found}")


def test_jobs_are_accepted_while_the_broker_is_away_and_done_after(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    log = Log()
    with parts.cluster(home, postgres) as cluster, Client(cluster, log) as client:
        version = client.upload({}, "model")
        assert cluster.broker.process
        cluster.down.append(cluster.broker)
        cluster.broker.process.kill()
        gone = time.monotonic()
        slowest = 0.0
        for n in range(JOBS_WITHOUT_BROKER):
            begun = time.monotonic()
            client.submit(version, f"job-{n}")
            slowest = max(slowest, time.monotonic() - begun)
        readiness = client.send("GET", "/readyz").json()
        assert cluster.until(lambda: time.monotonic() - gone > AWAY_S)
        cluster.down.clear()
        back = time.monotonic()
        assert cluster.until(lambda: ended(cluster))
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
        seconds = time.monotonic() - back
    assert readiness["status"] == "degraded"
    assert log.statuses[503] == 0
    assert found.states == {"succeeded": JOBS_WITHOUT_BROKER}
    done = within(seconds, DONE_S)
    figure(
        f"away for {AWAY_S:.0f} s, each job accepted within {slowest:.2f} s, all done {done} after: {found}"
    )
