"""Receivers that fail, hang and reset, while the workers that send to them are killed."""

import time
from collections import Counter
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from app.db.base import MICROSECONDS
from app.storage import LocalStorage
from benchmarks.webhook_receivers import receivers
from tests.faults import parts
from tests.faults.conftest import Report
from tests.faults.promises import Client, Log, submitting, verify
from tests.faults.rhythm import Every, killing_one_of

SEED = 12
JOBS = 50
ENDPOINTS = 20  # as many as a project may have
EVENTS = JOBS * ENDPOINTS
KILLS = 5
KILL_EVERY_S = 10.0
WIND_EVERY_S = 1.0
# A second failure rests for minutes: what waits is due now.
DUE = f"not_before = 0, rung_at = {MICROSECONDS}"
WIND = (
    "UPDATE webhook_endpoints SET rest_until = 0",
    f"UPDATE steps SET {DUE} WHERE kind = 'deliver' AND state = 'queued'",  # noqa: S608 - ours
)

pytestmark = pytest.mark.long


def test_a_thousand_events_arrive_though_receivers_fail_and_senders_are_killed(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    """Of the attempts 20 % get a 500, 10 % no answer for 20 s, and 5 % a reset."""
    log, start = Log(), time.monotonic()
    with receivers(SEED) as receiver, parts.cluster(home, postgres) as cluster:
        with Client(cluster, log) as client:
            for path in [f"/faulty/{n}" for n in range(ENDPOINTS)]:
                receiver.secrets[path] = Webhook(client.listen(receiver.url(path)))

        def wind() -> None:
            for statement in WIND:
                postgres.execute(statement, cluster.database)

        def fault() -> None:
            kill()
            hurry()

        kill = Every(KILL_EVERY_S, killing_one_of([cluster.control], SEED), KILLS)
        hurry = Every(WIND_EVERY_S, wind)

        def all_told() -> bool:
            return kill.times == KILLS and cluster.delivered() == EVENTS

        with submitting(cluster, log, range(JOBS)) as settled:
            assert cluster.until(lambda: settled() and all_told(), fault)
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
    assert len({seen.message for seen in receiver.seen if seen.outcome == "take"}) == EVENTS
    assert [seen for seen in receiver.seen if not seen.valid] == []
    outcomes = ", ".join(f"{n} {how}" for how, n in Counter(s.outcome for s in receiver.seen).items())
    seconds = time.monotonic() - start
    figure(f"{EVENTS} events taken (seed {SEED}: {outcomes}), {kill.times} kills, {seconds:.0f} s: {found}")
