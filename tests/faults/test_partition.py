"""A worker that is cut off from the database in the middle of a step, for two leases."""

import time
from pathlib import Path
from typing import Any

import pytest

from app.db.base import MICROSECONDS
from app.db.queries.steps import LEASE
from app.storage import LocalStorage
from tests.faults import parts
from tests.faults.conftest import Report
from tests.faults.line import line_to
from tests.faults.promises import Client, Log, ended, verify
from tests.waiting import in_time

BUILD_S = 40
TWO_LEASES_S = 2 * LEASE / MICROSECONDS

pytestmark = pytest.mark.long


def test_a_worker_without_a_database_stops_before_another_one_begins(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    log = Log()
    with (
        line_to(postgres.socket, home / "line") as line,
        parts.cluster(home, postgres, parts.Shape(engines=0)) as cluster,
        Client(cluster, log) as client,
    ):
        through = postgres.url(cluster.database, str(home / "line"))
        alone = cluster.engine("alone", FEWBITS_DATABASE_URL=through)
        client.submit(client.upload({"slow": {"build": BUILD_S}}, "model"), "job")
        assert cluster.until(lambda: running_build(postgres, cluster.database))
        assert in_time(lambda: parts.children_of(alone))
        ((step,),) = running_build(postgres, cluster.database)

        line.cut()
        since = time.time()
        assert in_time(lambda: not parts.children_of(alone))
        stopped = time.time()
        cluster.engine("other", FEWBITS_LOCK_DIR=str(home / "another host"))
        assert cluster.until(lambda: ended(cluster))
        assert cluster.until(lambda: time.time() - since > TWO_LEASES_S)
        line.mend()
        assert in_time(lambda: f"{step} was taken away" in cluster.log_of(alone))

        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
        ((attempt, finished_at),) = postgres.execute(
            "SELECT attempt, finished_at FROM steps WHERE kind = 'build'", cluster.database
        )
    begun_again = finished_at / MICROSECONDS - BUILD_S
    assert attempt == 2
    assert stopped < begun_again
    assert found.states == {"succeeded": 1}
    gone = f"the child was gone {stopped - since:.0f} s after the cut"
    figure(f"{gone}, {begun_again - stopped:.0f} s before another worker began: {found}")


def running_build(postgres: parts.Postgres, database: str) -> list[tuple[Any, ...]]:
    """The build that runs."""
    return postgres.execute("SELECT id FROM steps WHERE kind = 'build' AND state = 'running'", database)
