"""Does the API stay quick under load, and with a million jobs? Prints each figure's ratio to its limit.

    PYTHONPATH=. python benchmarks/api.py --locust LOCUST [--seconds 300] [--users 50] [--jobs 1000000]

LOCUST is the command of an environment of its own (`python -m venv V && V/bin/pip install locust`).
The limits: p99 of each list under 50 ms (the hard ones ask for what lies behind a million others);
`/healthz` within 50 ms (p99) while 45 clients wait for a job; then no failed request, p99 of GET under
250 ms and of POST and PUT under 500 ms, and less than 5 % more memory in the second half of the load.
Exits 1 when one is missed. Starts its own Postgres, Redis and API; nobody works.
"""

import argparse
import asyncio
import csv
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from alembic import command
from alembic.config import Config

from app import start
from app.db.session import Database
from app.domain.processor import allowed_cores
from benchmarks import api_jobs
from tests import servers

ROOT = Path(__file__).resolve().parent.parent
LIMIT_MS = {"GET": 250.0, "POST": 500.0, "PUT": 500.0}
LIST_MS, HEALTH_MS, GROWTH = 50.0, 50.0, 1.05
# What was asked for often and long ago is the hard case: newest first, it lies behind everything else.
LISTS = {
    "jobs": "jobs?limit=20",
    "jobs, page of 100": "jobs?limit=100",
    "jobs, far back": "jobs?cursor=job_00000000000000000000100000",
    "jobs by state": "jobs?state=succeeded",
    "jobs by state, none": "jobs?state=expired",
    "jobs by conclusion": "jobs?conclusion=pass",
    "jobs by conclusion, long ago": "jobs?conclusion=inconclusive",
    "jobs of a version": "jobs?version={version}",
    "jobs of a version, long ago": "jobs?version=ver_00000000000000000000000001",
    "jobs of a model, long ago": "jobs?model=mdl_00000000000000000000000001",
    "jobs by label": "jobs?label.branch=b7",
    "jobs by label, long ago": "jobs?label.era=first",
    "jobs by two labels": "jobs?label.era=first&label.branch=b7",
    "jobs by label and state": "jobs?label.branch=b7&state=failed",
    "models": "models?limit=20",
    "versions": "models/mdl_00000000000000000000000001/versions",
    "trend": "models/mdl_00000000000000000000000001/trend",
    "events": "events?limit=20",
    "events by type, long ago": "events?type=key.created",
    "usage": "usage",
}


@dataclass(frozen=True)
class Known:
    """What the clients may name, and the process that serves them."""

    url: str
    key: str
    model: str
    version: str
    dataset: str
    job: str
    project: str
    pid: int


def main() -> int:
    """Lists, then waiting clients, then load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--locust", default="locust")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=200)
    asked = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), asked.jobs) as known:
        for name, value, limit in measured(known, Path(folder), asked):
            ratio = value / limit if limit else value
            print(f"{name:40} {value:10.2f}  limit {limit:8.2f}  ratio {ratio:.2f}", flush=True)
            missed |= value > limit
    return int(missed)


def measured(known: Known, folder: Path, asked: argparse.Namespace) -> Iterator[tuple[str, float, float]]:
    """A name, a value and its limit for each figure, as they are found."""
    yield from lists(known, asked.repeats)
    yield asyncio.run(health(known))
    yield from under_load(known, folder, asked)


def under_load(known: Known, folder: Path, asked: argparse.Namespace) -> list[tuple[str, float, float]]:
    """What Locust saw, and how the API's memory grew from the middle to the end."""
    told = {name.upper(): str(value) for name, value in vars(known).items()}
    clients = subprocess.Popen(  # noqa: S603 - a command of ours
        [
            *(asked.locust, "-f", ROOT / "benchmarks" / "api_clients.py", "--headless", "--only-summary"),
            *("-u", str(asked.users), "-r", "10", "-t", f"{asked.seconds}s", "-H", known.url),
            *("--csv", folder / "load", "--exit-code-on-error", "0"),
        ],
        env=os.environ | {f"LOAD_{name}": value for name, value in told.items()},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "clients.log").open("w"),
    )
    time.sleep(asked.seconds / 2)
    middle = resident(known.pid)
    time.sleep(asked.seconds * 0.45)
    growth = resident(known.pid) / middle
    clients.wait()
    if "Traceback" in (folder / "clients.log").read_text():
        sys.exit((folder / "clients.log").read_text()[-2000:])
    rows = list(csv.DictReader((folder / "load_stats.csv").open()))
    failed = sum(int(row["Failure Count"]) for row in rows if row["Name"] == "Aggregated")
    quick = [
        (f"p99 ms {row['Name']}", float(row["99%"]), LIMIT_MS[row["Name"].split()[0]])
        for row in rows
        if row["Name"] != "Aggregated"
    ]
    return [("failed requests", failed, 0.0), ("memory, end to middle", growth, GROWTH), *quick]


def lists(known: Known, repeats: int) -> Iterator[tuple[str, float, float]]:
    """p99 of each list, and of a scrape of the metrics, with nothing else going on."""
    paths = {name: f"/v1/{path.format(**vars(known))}" for name, path in LISTS.items()}
    with client(known) as http:
        for name, path in {**paths, "metrics": "/metrics"}.items():
            yield f"p99 ms {name}", p99([timed(http, path) for _ in range(repeats)]), LIST_MS


async def health(known: Known) -> tuple[str, float, float]:
    """p99 of `/healthz` while 45 clients wait for a job that nobody works on."""
    headers = {"Authorization": f"Bearer {known.key}", "Prefer": "wait=300"}
    limits = httpx.Limits(max_connections=60)
    async with httpx.AsyncClient(base_url=known.url, headers=headers, timeout=60, limits=limits) as http:
        waiting = [asyncio.create_task(http.get(f"/v1/jobs/{known.job}")) for _ in range(45)]
        await asyncio.sleep(2)
        took = []
        for _ in range(300):
            begun = time.perf_counter()
            (await http.get("/healthz")).raise_for_status()
            took.append((time.perf_counter() - begun) * 1000)
        if any(task.done() for task in waiting):
            sys.exit("a client did not wait")
        for task in waiting:
            task.cancel()
    return "p99 ms healthz, 45 wait", p99(took), HEALTH_MS


@contextmanager
def running(folder: Path, jobs: int) -> Iterator[Known]:
    """An API on a Postgres of its own with so many ended jobs."""
    with (
        servers.postgres() as server,
        servers.redis() as redis,
        servers.fresh_postgres(server, "load") as url,
    ):
        config = Config(ROOT / "alembic.ini")
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        command.upgrade(config, "head")
        database = Database(url)
        ids = api_jobs.fill(database, jobs)
        with served(folder, url, redis) as (address, pid):
            yield Known(url=address, pid=pid, **ids)
        database.dispose()


@contextmanager
def served(folder: Path, url: str, redis: str) -> Iterator[tuple[str, int]]:
    """The API as it is started on this host, with Postgres."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    settings = {
        "FEWBITS_HOME": str(folder),
        "FEWBITS_DATABASE_URL": url,
        "FEWBITS_REDIS_URL": redis,
    }
    rates = {"FEWBITS_RATE_READS": "10000000", "FEWBITS_RATE_WRITES": "10000000"}
    environment = os.environ | settings | rates
    with (folder / "api.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - a command of ours
            start.api("127.0.0.1", port, allowed_cores()), env=environment, cwd=ROOT, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                if httpx.get(f"{address}/healthz", timeout=5).is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def client(known: Known) -> httpx.Client:
    """A client with the key."""
    return httpx.Client(base_url=known.url, headers={"Authorization": f"Bearer {known.key}"}, timeout=60)


def timed(http: httpx.Client, path: str) -> float:
    """Milliseconds of one request."""
    begun = time.perf_counter()
    http.get(path).raise_for_status()
    return (time.perf_counter() - begun) * 1000


def p99(values: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def resident(pid: int) -> int:
    """Kilobytes that a process and its children hold."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = [line for p in (pid, *children) for line in Path(f"/proc/{p}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    sys.exit(main())
