"""Clocks of API and workers that jump by two hours, to and fro, while jobs run and their ends are told."""

import itertools
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from app.storage import LocalStorage
from benchmarks.webhook_receivers import receivers
from tests.faults import parts
from tests.faults.conftest import Report
from tests.faults.promises import Client, Log, submitting, verify
from tests.faults.rhythm import Every

SEED = 11
JOBS = 40
SUBMIT_EVERY_S = 0.5
JUMP_EVERY_S = 5.0
JUMPS = ("+2h", "-2h", "+0")
LIBRARY = "libfaketimeMT.so.1"
PATHS = ("lib/*/faketime", "lib64/faketime", "lib/faketime")  # Debian, Fedora, Arch
RECEIVER = "/healthy/0"

pytestmark = pytest.mark.long


def library() -> str:
    """What stands between a process and its clock."""
    for path in PATHS:
        for found in Path("/usr").glob(f"{path}/{LIBRARY}"):
            return str(found)
    pytest.skip("libfaketime is not there: apt install libfaketime")


def test_clocks_that_jump_cost_no_lease(home: Path, postgres: parts.Postgres, figure: Report) -> None:
    """Leases, deadlines and signatures go by the database's clock, waits by one that does not jump."""
    log, clock = Log(), home / "clock"
    clock.write_text("+0")
    jumping = {
        "LD_PRELOAD": library(),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    offsets = itertools.cycle(JUMPS)

    def jump() -> None:
        (home / "clock.new").write_text(next(offsets))
        (home / "clock.new").rename(clock)

    with (
        receivers(SEED) as receiver,
        parts.cluster(home, postgres, parts.Shape(more=jumping)) as cluster,
    ):
        with Client(cluster, log) as client:
            receiver.secrets[RECEIVER] = Webhook(client.listen(receiver.url(RECEIVER)))
        jumps = Every(JUMP_EVERY_S, jump)

        def all_told() -> bool:
            return jumps.times >= len(JUMPS) and cluster.delivered() == JOBS

        with submitting(cluster, log, range(JOBS), SUBMIT_EVERY_S, slow={"build": 1}) as settled:
            assert cluster.until(lambda: settled() and all_told(), jumps)
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
    assert found.states == {"succeeded": JOBS}
    assert found.losses == 0
    assert [seen.valid for seen in receiver.seen] == [True] * JOBS
    figure(f"{jumps.times} jumps, {JOBS} signatures valid when they came: {found}")
