"""Engine calls that are killed from outside, as a host short of memory does, and models that are poison."""

import itertools
import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from app.storage import LocalStorage
from tests.faults import parts
from tests.faults.conftest import Report, within
from tests.faults.promises import Client, Log, ended, submitting, verify

KILLS = 50
LOST_JOBS = 17
SPARED_JOBS = 4
TWICE = 2
GOOD_ALONE = 40
GOOD_BESIDE = 200
POISONED = 20
SLOWER = 1.2
POISONS = {
    "segfault": "engine_crashed",
    "hoard": "memory_limit",
    "spin": "time_limit",
    "flood": "output_limit",
}
LIMITS = {"FEWBITS_SANDBOX_SECONDS": "10", "FEWBITS_SANDBOX_OUTPUT": str(16 << 20)}
BUILDS_P95 = (
    "SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY (finished_at - started_at) / 1e6) FROM steps "
    "WHERE kind = 'build' AND state = 'done' AND finished_at > {}"
)
PREPARES = "SELECT id, job_id, attempt FROM steps WHERE kind = 'prepare'"
NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1e6)::bigint"

pytestmark = pytest.mark.long


def test_children_that_are_killed_are_tried_again_three_times_at_most(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    """Each preparation of some jobs, and at most two of each other one: the workers themselves go on."""
    log, kills, killed = Log(), Counter[str](), set[int]()
    with parts.cluster(home, postgres) as cluster, Client(cluster, log) as client:
        endless = client.upload({"slow": {"prepare": 3600}}, "endless")
        slow = client.upload({"slow": {"prepare": 2}}, "slow")
        lost = {client.submit(endless, f"lost-{n}") for n in range(LOST_JOBS)}
        spared = {client.submit(slow, f"spared-{n}") for n in range(SPARED_JOBS)}
        workers = [engine.process for engine in cluster.engines]

        def kill() -> None:
            job_of = {step: job for step, job, _ in postgres.execute(PREPARES, cluster.database)}
            found = [one for engine in cluster.engines for one in parts.children_of(engine).items()]
            for pid, step in found:
                job = job_of.get(step)
                if job and pid not in killed and (job in lost or kills[step] < TWICE):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.add(pid)
                        kills[step] += 1

        assert cluster.until(lambda: ended(cluster), kill)
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
        assert [engine.process for engine in cluster.engines] == workers
        attempts = {job: attempt for _, job, attempt in postgres.execute(PREPARES, cluster.database)}
    assert len(killed) >= KILLS
    assert found.states == {"failed": LOST_JOBS, "succeeded": SPARED_JOBS}
    assert found.errors == {"worker_lost": LOST_JOBS}
    assert {attempts[job] for job in lost} == {3}
    assert {attempts[job] for job in spared} <= {1, 2, 3}
    figure(f"{len(killed)} children killed, both workers went on: {found}")


def test_poison_among_good_models_fails_alone(home: Path, postgres: parts.Postgres, figure: Report) -> None:
    log = Log()
    with parts.cluster(home, postgres, parts.Shape(more=LIMITS)) as cluster, Client(cluster, log) as client:
        workers = [engine.process for engine in cluster.engines]
        with submitting(cluster, log, range(GOOD_ALONE)) as settled:
            assert cluster.until(settled)
        ((alone_s,),) = postgres.execute(BUILDS_P95.format(0), cluster.database)
        ((since,),) = postgres.execute(NOW, cluster.database)
        good, poisons = client.upload({}, "good"), itertools.cycle(POISONS)
        bad = {poison: client.upload({"poison": poison}, poison) for poison in POISONS}
        for n in range(GOOD_BESIDE):
            client.submit(good, f"good-{n}")
            if n % (GOOD_BESIDE // POISONED) == 0:
                poison = next(poisons)
                client.submit(bad[poison], f"{poison}-{n}")
        assert cluster.until(lambda: ended(cluster))
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
        assert [engine.process for engine in cluster.engines] == workers
        ((beside_s,),) = postgres.execute(BUILDS_P95.format(since), cluster.database)
    assert found.states == {"succeeded": GOOD_ALONE + GOOD_BESIDE, "failed": POISONED}
    assert found.errors == dict.fromkeys(POISONS.values(), POISONED // len(POISONS))
    assert found.losses == 0
    slower = within(float(beside_s / alone_s), SLOWER, "times")
    figure(f"builds took {alone_s:.2f} s (p95) alone, beside poison {slower} as long: {found}")
