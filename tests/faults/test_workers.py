"""Workers that are killed, stopped for longer than their leases, and restarted, while jobs run."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from app.db.base import MICROSECONDS
from app.db.queries.steps import LEASE
from app.embedded.children import Child
from app.storage import LocalStorage
from tests.faults import parts
from tests.faults.conftest import Report
from tests.faults.promises import OPEN, Client, Log, ended, submitting, verify
from tests.faults.rhythm import Every, killing_one_of

SEED = 1
JOBS = 200
KILL_EVERY_S = 5.0
KILLS = 40  # then they are left alone: on a slow host they would do nothing but start
RESTARTS = 5
AT_WORK = 20
BUILD_S = 5
STOPPED_JOBS = 6
THREE_LEASES_S = 3 * LEASE / MICROSECONDS + 5
THREE = parts.Shape(engines=3)
BUILDS_OF = "SELECT id FROM steps WHERE kind = 'build' AND state = 'running' AND worker LIKE '%:{}'"

pytestmark = pytest.mark.long


def test_no_job_is_lost_when_workers_are_killed_at_random(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    log, start = Log(), time.monotonic()
    with (
        parts.cluster(home, postgres, THREE) as cluster,
        submitting(cluster, log, range(JOBS)) as settled,
    ):
        kill = Every(KILL_EVERY_S, killing_one_of([*cluster.engines, cluster.control], SEED), KILLS)
        assert cluster.until(settled, kill)
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
    assert kill.times > 0
    assert found.states["succeeded"] + found.errors.get("worker_lost", 0) == JOBS
    figure(f"{kill.times} kills (seed {SEED}) in {time.monotonic() - start:.0f} s: {found}")


def test_a_worker_that_was_stopped_for_three_leases_writes_nothing(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    """A worker of another host does what it held; its own host's lock it holds all the while."""
    log = Log()
    with (
        parts.cluster(home, postgres, parts.Shape(engines=1)) as cluster,
        submitting(cluster, log, range(STOPPED_JOBS), slow={"build": 8}) as settled,
    ):
        (stopped,) = cluster.engines
        held: list[str] = []

        def holds_a_build() -> bool:
            held[:] = builds_of(cluster, stopped)
            return bool(held)

        assert cluster.until(holds_a_build)
        assert stopped.process
        os.kill(stopped.process.pid, signal.SIGSTOP)
        since = time.monotonic()
        cluster.engine("other", FEWBITS_LOCK_DIR=str(home / "another host"))
        assert cluster.until(settled)
        assert cluster.until(lambda: time.monotonic() - since > THREE_LEASES_S)
        os.kill(stopped.process.pid, signal.SIGCONT)

        def all_dropped() -> bool:
            return all(f"{step} was taken away" in cluster.log_of(stopped) for step in held)

        assert cluster.until(lambda: all_dropped() and settled())
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
        attempts = dict(postgres.execute("SELECT id, attempt FROM steps", cluster.database))
    assert {attempts[step] for step in held} == {2}
    assert found.states == {"succeeded": STOPPED_JOBS}
    figure(f"{len(held)} stale results dropped, 0 accepted: {found}")


def test_rolling_restarts_cost_no_job_an_attempt(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    """A step in hand goes back to the queue; only losses count towards giving up, and there are none."""
    log = Log()
    with parts.cluster(home, postgres) as cluster, Client(cluster, log) as client:
        version = client.upload({"slow": {"build": BUILD_S}}, "model")
        for _ in range(RESTARTS):
            for engine in cluster.engines:
                while open_jobs(cluster) < AT_WORK:
                    client.submit(version, f"job-{len(log.jobs)}")
                assert cluster.until(partial(builds_of, cluster, engine))
                cluster.restart(engine)
            cluster.restart(cluster.control)
        assert cluster.until(lambda: ended(cluster))
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
    assert found.attempts > found.steps, "steps in hand were handed back"
    assert found.losses == 0
    assert found.states == {"succeeded": len(log.jobs)}
    figure(f"{RESTARTS} rolling restarts of 3 workers with {AT_WORK} jobs under way: {found}")


def builds_of(cluster: parts.Cluster, engine: Child) -> list[str]:
    """The builds that this worker holds."""
    assert engine.process
    held = cluster.postgres.execute(BUILDS_OF.format(engine.process.pid), cluster.database)
    return [step for (step,) in held]


def open_jobs(cluster: parts.Cluster) -> int:
    """How many jobs have not ended."""
    ((jobs, _steps),) = cluster.postgres.execute(OPEN, cluster.database)
    return int(jobs)
