"""Does the API stay quick under load, and with a million jobs? Prints each figure's ratio to its limit.

    PYTHONPATH=. python benchmarks/api.py --locust LOCUST [--seconds 300] [--users 50] [--jobs 1000000]

LOCUST is the command of an environment of its own (`python -m venv V && V/bin/pip install locust`).
The limits: no failed request, p99 of GET under 250 ms and of POST and PUT under 500 ms; afterwards p99 of
each list under 50 ms; the API's memory grows less than 5 % in the second half; `/healthz` answers within
50 ms (p99) while 45 clients wait for a job. Exits 1 when one is missed. Starts its own Postgres and API.
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
from sqlalchemy import text

from app import broker
from app.db.models import Project, Version
from app.db.session import Database
from app.services import keys
from tests import factories, servers

ROOT = Path(__file__).resolve().parent.parent
LIMIT_MS = {"GET": 250.0, "POST": 500.0, "PUT": 500.0}
LIST_MS, HEALTH_MS, GROWTH = 50.0, 50.0, 1.05
LISTS = {
    "all": "",
    "state": "&state=succeeded",
    "version": "&version={version}",
    "model": "&model={model}",
    "label": "&label.branch=b7",
}
MANY = """INSERT INTO jobs (id, project_id, version_id, calibration_id, evaluation_id, spec, state, notes,
    created_at, finished_at, deadline_at)
SELECT 'job_00' || lpad(n::text, 24, '0'), project_id, version_id, calibration_id, evaluation_id,
    jsonb_set(spec::jsonb, '{{labels}}', jsonb_build_object('branch', 'b' || n % 1000))::{kind},
    (ARRAY['succeeded', 'failed', 'canceled'])[n % 3 + 1], notes, created_at, created_at, deadline_at
FROM jobs, generate_series(1, :jobs) n WHERE jobs.id = :job"""


@dataclass(frozen=True)
class Known:
    """What the clients may name, and the process that serves them."""

    url: str
    key: str
    model: str
    version: str
    dataset: str
    job: str
    pid: int


def main() -> int:
    """Load, then lists, then waiting clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--locust", default="locust")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), asked.jobs) as known:
        load = under_load(known, Path(folder), asked)
        results = [*load, *lists(known), asyncio.run(health(known))]
    for name, value, limit in results:
        print(f"{name:32} {value:10.2f}  limit {limit:8.2f}  ratio {value / limit if limit else value:.2f}")
    return int(any(value > limit for _, value, limit in results))


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
    )
    time.sleep(asked.seconds / 2)
    middle = resident(known.pid)
    time.sleep(asked.seconds * 0.45)
    growth = resident(known.pid) / middle
    clients.wait()
    rows = list(csv.DictReader((folder / "load_stats.csv").open()))
    failed = sum(int(row["Failure Count"]) for row in rows if row["Name"] == "Aggregated")
    quick = [
        (f"p99 ms {row['Name']}", float(row["99%"]), LIMIT_MS[row["Name"].split()[0]])
        for row in rows
        if row["Name"] != "Aggregated"
    ]
    return [("failed requests", failed, 0.0), ("memory, end to middle", growth, GROWTH), *quick]


def lists(known: Known) -> list[tuple[str, float, float]]:
    """p99 of each list with nothing else going on."""
    with client(known) as http:
        return [
            (
                f"p99 ms idle list, {name}",
                p99([timed(http, f"/v1/jobs?limit=20{query.format(**vars(known))}") for _ in range(200)]),
                LIST_MS,
            )
            for name, query in LISTS.items()
        ]


async def health(known: Known) -> tuple[str, float, float]:
    """p99 of `/healthz` while 45 clients wait for a job that nobody works on."""
    headers = {"Authorization": f"Bearer {known.key}", "Prefer": "wait=12"}
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
        await asyncio.gather(*waiting)
    return "p99 ms healthz, 45 wait", p99(took), HEALTH_MS


@contextmanager
def running(folder: Path, jobs: int) -> Iterator[Known]:
    """An API on a Postgres of its own with so many ended jobs."""
    with servers.postgres() as server, servers.fresh_postgres(server, "load") as url:
        config = Config(ROOT / "alembic.ini")
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        command.upgrade(config, "head")
        database = Database(url)
        ids = fill(database, jobs)
        with served(folder, url) as (address, pid):
            yield Known(url=address, pid=pid, **ids)
        database.dispose()


def fill(database: Database, jobs: int) -> dict[str, str]:
    """One job as a template, copied by SQL."""
    broker.ring = lambda *_: None  # nobody works here
    project = factories.make_project(database)
    version, dataset = factories.make_version(database, project), factories.make_dataset(database, project)
    job = factories.make_job(database, project, version=version)
    with database.writing() as db:
        db.execute(text("SET LOCAL statement_timeout = 0"))
        db.execute(text("SET LOCAL session_replication_role = replica"))  # copies need no second look
        kind = db.scalar(
            text(
                "SELECT data_type FROM information_schema.columns "
                "WHERE table_name = 'jobs' AND column_name = 'spec'"
            )
        )
        db.execute(text(MANY.format(kind=kind)), {"jobs": jobs, "job": job})
        key = keys.create(db, db.get_one(Project, project), "load", ["read", "write"]).text
        model = db.get_one(Version, version).model_id
    with database.engine.begin() as connection:  # statistics, as autovacuum gathers them
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("ANALYZE"))
    return {"key": key, "model": model, "version": version, "dataset": dataset, "job": job}


@contextmanager
def served(folder: Path, url: str) -> Iterator[tuple[str, int]]:
    """The API as `make serve` starts it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = ["app.main:create_app", "--factory", "--no-access-log", "--port", str(port), "--log-level=error"]
    settings = {"FEWBITS_HOME": str(folder), "FEWBITS_DATABASE_URL": url, "FEWBITS_RATE_READS": "10000000"}
    environment = os.environ | settings | {"FEWBITS_RATE_WRITES": "10000000"}
    process = subprocess.Popen(  # noqa: S603 - a command of ours
        [sys.executable, "-m", "uvicorn", *words], env=environment, cwd=ROOT
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
    """Kilobytes that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    sys.exit(main())
