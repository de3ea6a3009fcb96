"""Does it matter how many watch one job? Counts what the API process spends while nothing happens.

    PYTHONPATH=. python benchmarks/watchers.py --seconds 32

The limit: against one watcher, 500 watchers of one running job cost at most 1.2 times the database statements
and at most 2 times the CPU seconds. Every watcher must have seen every event exactly once in the end. Exits
1 when that does not hold. Starts its own API on a free port, on SQLite in a temporary folder.
"""

import argparse
import asyncio
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import uvicorn
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, event

from app import broker
from app.db.models import Project
from app.db.session import Database
from app.main import create_app
from app.services import keys
from app.settings import Settings
from app.storage import LocalStorage
from tests import factories

ROOT = Path(__file__).resolve().parent.parent
WATCHERS = (1, 50, 500)
STATEMENTS_LIMIT, CPU_LIMIT = 1.2, 2.0


@dataclass(frozen=True)
class Cost:
    """What the API spent per second."""

    watchers: int
    cpu: float
    statements: float


def main() -> int:
    """Measure each number of watchers on a job of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=32.0)
    seconds = parser.parse_args().seconds
    broker.ring = lambda *_: None  # nobody works here
    with tempfile.TemporaryDirectory() as folder, _api(Path(folder)) as (url, ask):
        database, storage = (
            Database(Settings(home=Path(folder)).database),
            LocalStorage(Path(folder) / "blobs"),
        )
        project = factories.make_project(database)
        with database.writing() as db:
            key = keys.create(db, db.get_one(Project, project), "a benchmark's", ("read",)).text
        costs = []
        for count in WATCHERS:
            job = factories.make_job(database, project)
            watching = _Watching(url, key, job, count)
            costs.append(watching.cost(ask, seconds))
            factories.work_off(database, storage, job)
            watching.check()
    return _report(costs)


class _Watching:
    """Watchers of one job, in a thread of their own; each keeps the ids that it saw."""

    def __init__(self, url: str, key: str, job: str, count: int) -> None:
        self.seen: list[list[int]] = [[] for _ in range(count)]
        self._path = f"{url}/v1/jobs/{job}/events"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers=self._headers, timeout=60, limits=limits) as http:
            await asyncio.gather(*(self._watch(http, ids) for ids in self.seen))

    async def _watch(self, http: httpx.AsyncClient, ids: list[int]) -> None:
        async with http.stream("GET", self._path) as answer:
            async for line in answer.aiter_lines():
                ids += [int(line[4:])] if line.startswith("id: ") else []

    def cost(self, ask: Connection, seconds: float) -> Cost:
        """What the API spends once everybody has heard the first event."""
        while not all(self.seen):
            time.sleep(0.1)
        time.sleep(2)
        before = _spent(ask)
        time.sleep(seconds)
        cpu, statements = (b - a for a, b in zip(before, _spent(ask), strict=True))
        return Cost(len(self.seen), cpu / seconds, statements / seconds)

    def check(self) -> None:
        """Wait for the ends of the streams; every watcher has everything once."""
        self._thread.join()
        whole = list(range(1, len(self.seen[0]) + 1))
        if not all(ids == whole for ids in self.seen) or len(whole) < 10:  # noqa: PLR2004 - a job has more
            sys.exit("a watcher missed an event or saw one twice")


@contextmanager
def _api(home: Path) -> Iterator[tuple[str, Connection]]:
    """An API in a process of its own that tells what it spent."""
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", Settings(home=home).database)
    command.upgrade(config, "head")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=_serve, args=(home, listener, theirs))
        process.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", ours
        finally:
            process.terminate()
            process.join()


def _serve(home: Path, listener: socket.socket, pipe: Connection) -> None:
    statements = [0]

    def count(*_: object) -> None:
        statements[0] += 1

    event.listen(Engine, "before_cursor_execute", count)
    threading.Thread(target=_tell, args=(pipe, statements), daemon=True).start()
    config = uvicorn.Config(create_app(Settings(home=home)), log_level="warning", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run([listener])


def _tell(pipe: Connection, statements: list[int]) -> None:
    while pipe.recv():
        times = os.times()
        pipe.send((times.user + times.system, statements[0]))


def _spent(pipe: Connection) -> tuple[float, float]:
    """CPU seconds and statements of the API process so far."""
    pipe.send(True)
    cpu, statements = pipe.recv()
    return cpu, statements


def _report(costs: list[Cost]) -> int:
    one, *_, most = costs
    print("| watchers | CPU s/s | statements/s |\n|---:|---:|---:|")
    for cost in costs:
        print(f"| {cost.watchers} | {cost.cpu:.4f} | {cost.statements:.1f} |")
    cpu, statements = most.cpu / one.cpu, most.statements / one.statements
    print(f"{most.watchers} against 1: CPU {cpu:.2f}x (limit {CPU_LIMIT}), ", end="")
    print(f"statements {statements:.2f}x (limit {STATEMENTS_LIMIT})")
    return int(cpu > CPU_LIMIT or statements > STATEMENTS_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
