"""Fifty clients at once: no request fails, and the API's memory does not grow."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest

from app.domain.processor import allowed_cores
from app.storage import LocalStorage
from tests.faults import parts
from tests.faults.conftest import FULL, Report, within
from tests.faults.promises import Client, Log, ended, verify
from tests.faults.promises import job as job_request

CLIENTS = 50
LOAD_S = 600 if FULL else 60
PAUSE_S = (1.0, 5.0)  # as the clients of benchmarks/api.py
SEED = 15
GET_MS, POST_MS, GROWTH = 250, 500, 1.05
GETS = ("/v1/jobs/{job}", "/v1/jobs?limit=20", "/v1/jobs/{job}/steps", "/v1/me", "/v1/models", "/v1/usage")

pytestmark = pytest.mark.long


@dataclass
class Visit:
    """What one client was told, and how many milliseconds each answer took."""

    chance: random.Random
    log: Log = field(default_factory=Log)
    took: dict[str, list[float]] = field(default_factory=lambda: {"GET": [], "POST": []})

    def ask(self, client: Client, method: str, path: str, **request: Any) -> Any:
        """The answer's content, some seconds after the one before."""
        time.sleep(self.chance.uniform(*PAUSE_S))
        begun = time.monotonic()
        answer = client.once(method, path, **request)
        self.took[method].append((time.monotonic() - begun) * 1000)
        assert answer is not None
        assert answer.is_success, answer.text
        return answer.json()


def visit(cluster: parts.Cluster, version: str, end: float, number: int) -> Visit:
    """Submit a job, look around, cancel it, and again."""
    here = Visit(random.Random(SEED + number))  # noqa: S311 - to be repeated
    with Client(cluster, here.log) as client:
        while time.monotonic() < end:
            key = f"job-{number}-{len(here.log.jobs)}"
            job = here.ask(client, "POST", "/v1/jobs", **job_request(version, key))["id"]
            here.log.acknowledge(key, job)
            for path in GETS:
                here.ask(client, "GET", path.format(job=job))
            here.ask(client, "POST", f"/v1/jobs/{job}/cancel")
    return here


def test_no_request_fails_under_load(home: Path, postgres: parts.Postgres, figure: Report) -> None:
    log = Log()
    shape = parts.Shape(engines=1, processes=allowed_cores())
    with parts.cluster(home, postgres, shape) as cluster, Client(cluster, log) as client:
        version, (engine,) = client.upload({}, "model"), cluster.engines
        assert cluster.until(lambda: ended(cluster))
        cluster.down.append(engine)  # what is measured is the API
        assert engine.process
        engine.process.kill()
        end = time.monotonic() + LOAD_S
        with ThreadPoolExecutor(CLIENTS) as pool:
            going = pool.map(partial(visit, cluster, version, end), range(CLIENTS))
            time.sleep(LOAD_S / 2)
            middle = resident(cluster)
            visits = list(going)
        growth = resident(cluster) / middle
        assert cluster.until(lambda: ended(cluster))
        logs = [log, *(one.log for one in visits)]
        found = verify(together(logs), cluster.database_url, LocalStorage(home / "blobs"))
    statuses = sum((one.statuses for one in logs), start=Counter[int]())
    assert {status for status in statuses if status >= 400} == set()
    gets, posts = (p99([ms for one in visits for ms in one.took[method]]) for method in ("GET", "POST"))
    asked = f"{CLIENTS} clients, {sum(statuses.values())} requests in {LOAD_S} s, none failed"
    quick = f"p99 of GET {within(gets, GET_MS, 'ms')}, of POST {within(posts, POST_MS, 'ms')}"
    figure(f"{asked}, {quick}, memory {within(growth, GROWTH, 'times')} that at half time: {found}")


def together(logs: Sequence[Log]) -> Log:
    """What all clients were told."""
    jobs = {key: job for log in logs for key, job in log.jobs.items()}
    return Log(
        jobs, {blob for log in logs for blob in log.blobs}, wrong=[w for log in logs for w in log.wrong]
    )


def resident(cluster: parts.Cluster) -> float:
    """The memory of all processes of the API in pages."""
    assert cluster.api.process
    pid = cluster.api.process.pid
    others = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(float(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in [str(pid), *others])


def p99(milliseconds: Sequence[float]) -> float:
    """What 99 of 100 answers were quicker than."""
    return quantiles(milliseconds, n=100)[98]
