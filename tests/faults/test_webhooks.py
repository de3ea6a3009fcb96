"""Receivers that fail and reset while the workers that send to them are killed."""

import random
import time
from pathlib import Path

import pytest

from app.db.base import MICROSECONDS
from app.storage import LocalStorage
from tests.faults import parts
from tests.faults.conftest import Report
from tests.faults.promises import Client, Log, submitting, verify
from tests.faults.rhythm import Every, killing_one_of
from tests.receiving import OK, Answer, receiving

SEED = 12
JOBS = 60
FAILS = 0.25
KILLS = 5
KILL_EVERY_S = 10.0
WIND_EVERY_S = 1.0
FAILURE: Answer = (500, {}, b"")
# A second failure rests for minutes: what waits is due now.
DUE = f"not_before = 0, rung_at = {MICROSECONDS}"
WIND = (
    "UPDATE webhook_endpoints SET rest_until = 0",
    f"UPDATE steps SET {DUE} WHERE kind = 'deliver' AND state = 'queued'",  # noqa: S608 - ours
)

pytestmark = pytest.mark.long


def test_every_end_of_a_job_is_told_though_senders_are_killed(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    log, chance, start = Log(), random.Random(SEED), time.monotonic()  # noqa: S311 - to be repeated
    with (
        receiving() as receiver,
        parts.cluster(home, postgres) as cluster,
        Client(cluster, log) as client,
    ):
        receiver.answers = [FAILURE if chance.random() < FAILS else OK for _ in range(10 * JOBS)]
        asked = {"url": receiver.url, "events": ["job.succeeded"]}
        secret = client.send("POST", "/v1/webhook-endpoints", json=asked).json()["secret"]

        def wind() -> None:
            for statement in WIND:
                postgres.execute(statement, cluster.database)

        def fault() -> None:
            kill()
            hurry()

        kill = Every(KILL_EVERY_S, killing_one_of([cluster.control], SEED), KILLS)
        hurry = Every(WIND_EVERY_S, wind)
        states = "SELECT state, count(*) FROM deliveries GROUP BY state"
        with submitting(cluster, log, JOBS) as settled:
            assert cluster.until(
                lambda: settled() and postgres.execute(states, cluster.database) == [("delivered", JOBS)],
                fault,
            )
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
        jobs = {received.verified(secret)["data"]["job"] for received in receiver.received}
    assert jobs == set(log.jobs.values())
    assert len(set(receiver.ids)) == JOBS
    seconds, again = time.monotonic() - start, len(receiver.ids) - JOBS
    figure(f"{JOBS} events told, {again} requests more, {kill.times} kills, {seconds:.0f} s: {found}")
