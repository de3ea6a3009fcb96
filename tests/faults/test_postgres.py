"""A database that is killed ten times while jobs are submitted and run."""

import time
from pathlib import Path

import pytest

from app.storage import LocalStorage
from tests.faults import parts
from tests.faults.conftest import Report, within
from tests.faults.promises import Log, submitting, verify
from tests.faults.rhythm import Every

JOBS = 60
KILLS = 10
KILL_EVERY_S = 6.0
SUBMIT_EVERY_S = 1.5
READY_S = 10
DOWN_S = 2.0

pytestmark = pytest.mark.long


def test_what_was_acknowledged_is_there_after_ten_kills_of_postgres(home: Path, figure: Report) -> None:
    log, away = Log(), []

    with (
        parts.postgres() as postgres,
        parts.cluster(home, postgres) as cluster,
        submitting(cluster, log, range(JOBS), SUBMIT_EVERY_S, slow={"build": 1}) as settled,
    ):

        def kill() -> None:
            begun = time.monotonic()
            postgres.kill()
            assert cluster.until(lambda: time.monotonic() - begun > DOWN_S)
            postgres.start()
            assert cluster.until(cluster.is_ready)
            away.append(time.monotonic() - begun - DOWN_S)

        faults = Every(KILL_EVERY_S, kill, KILLS)
        assert cluster.until(lambda: settled() and faults.times == KILLS, faults)
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
    assert set(log.statuses) <= {200, 201, 202, 409, 503}
    refused = f"{log.statuses[503]} requests were refused with 503, {log.broken} broke"
    figure(f"{KILLS} kills, ready again within {within(max(away), READY_S)}; {refused}; {found}")
