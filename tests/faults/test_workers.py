"""Workers that are killed, stopped for longer than their leases, and restarted, while jobs run."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from app.db.base import MICROSECONDS
from app.db.queries.steps import LEASE
from app.storage import LocalStorage
from tests.faults import parts
from tests.faults.conftest import Report
from tests.faults.promises import Log, submitting, verify
from tests.faults.rhythm import Every, killing_one_of

SEED = 1
JOBS = 200
KILLS = 40
KILL_EVERY_S = 5.0
RESTARTS = 5
RESTARTED_JOBS = 60
STOPPED_JOBS = 6
THREE_LEASES_S = 3 * LEASE / MICROSECONDS + 5
THREE = parts.Shape(engines=3)

pytestmark = pytest.mark.long


def test_no_job_is_lost_when_workers_are_killed_at_random(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    log, start = Log(), time.monotonic()
    with (
        parts.cluster(home, postgres, THREE) as cluster,
        submitting(cluster, log, JOBS) as settled,
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
        submitting(cluster, log, STOPPED_JOBS, slow={"build": 8}) as settled,
    ):
        (stopped,) = cluster.engines
        held: list[tuple[Any, ...]] = []

        def holds_a_build() -> bool:
            assert stopped.process
            held[:] = postgres.execute(
                "SELECT id FROM steps WHERE kind = 'build' AND state = 'running' "  # noqa: S608
                f"AND worker LIKE '%:{stopped.process.pid}'",
                cluster.database,
            )
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
            return all(f"{step} was taken away" in cluster.log_of(stopped) for (step,) in held)

        assert cluster.until(lambda: all_dropped() and settled())
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
        attempts = dict(postgres.execute("SELECT id, attempt FROM steps", cluster.database))
    assert {attempts[step] for (step,) in held} == {2}
    assert found.states == {"succeeded": STOPPED_JOBS}
    figure(f"{len(held)} stale results dropped, 0 accepted: {found}")


def test_rolling_restarts_cost_no_job_an_attempt(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    """A step in hand goes back to the queue; only losses count towards giving up, and there are none."""
    log = Log()
    with (
        parts.cluster(home, postgres) as cluster,
        submitting(cluster, log, RESTARTED_JOBS, slow={"build": 1}) as settled,
    ):
        assert cluster.until(lambda: len(log.jobs) > RESTARTED_JOBS / 4)
        for _ in range(RESTARTS):
            for part in [*cluster.engines, cluster.control]:
                cluster.restart(part)
        running = not settled()
        assert cluster.until(settled)
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
    assert found.losses == 0
    assert found.states == {"succeeded": RESTARTED_JOBS}
    figure(f"{RESTARTS} rolling restarts of 3 workers, jobs were left at the end: {running}: {found}")
