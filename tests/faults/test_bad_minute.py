"""The short subset: engine, API and database die once each while jobs run. The others do it in earnest."""

from pathlib import Path

from app.storage import LocalStorage
from tests.faults import parts
from tests.faults.conftest import Report
from tests.faults.promises import Client, Log, submitting, verify

JOBS = 6
SUBMIT_EVERY_S = 0.5
BODY = b"a body that is cut in the middle"


def test_nothing_is_lost_in_a_bad_minute(home: Path, postgres: parts.Postgres, figure: Report) -> None:
    log = Log()
    with (
        parts.cluster(home, postgres, parts.Shape(engines=1)) as cluster,
        submitting(cluster, log, range(JOBS), SUBMIT_EVERY_S, slow={"build": 1}) as settled,
    ):
        (engine,) = cluster.engines
        assert cluster.until(lambda: parts.children_of(engine))
        for part in (engine, cluster.api):
            assert part.process
            part.process.kill()
        postgres.kill()
        postgres.start()
        assert cluster.until(settled)
        with Client(cluster, log) as client:
            client.put(BODY)
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
    assert found.states == {"succeeded": JOBS}
    figure(f"{log.statuses[503]} requests refused, {log.broken} broken: {found}")
