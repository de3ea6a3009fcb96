"""Do clients that stall hold up others? Measures the 99th percentile of everybody else's answers.

    PYTHONPATH=. python benchmarks/slow_clients.py --seconds 20

The limit: while 500 requests never end their heads, 100 bodies trickle and 100 streams are not read, the
99th percentile of `GET /v1/me` of four other clients stays below 1 s, none of their requests fails, and
every unfinished head is let go within 20 s. Exits 1 when that does not hold. Starts its own API, on SQLite in
a temporary folder.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from alembic import command
from alembic.config import Config

from app import broker
from app.db.models import Project
from app.db.session import Database
from app.services import keys
from tests import factories

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 1.0
HEADS, BODIES, STREAMS, OTHERS = 500, 100, 100, 4
LET_GO_S = 20.0
PAUSE_S = 0.02


def main() -> int:
    """Measure without and with the slow clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, _api(Path(folder)) as (address, slow, job, other):
        alone, _, failed_before = asyncio.run(_measure(address, other, seconds, []))
        crowd = [*_heads(), *_bodies(slow), *_streams(slow, job)]
        beside, let_go, failed = asyncio.run(_measure(address, other, seconds, crowd))
    print(f"others alone: p99 {alone * 1000:.0f} ms")
    print(
        f"beside {len(crowd)} slow clients: p99 {beside * 1000:.0f} ms, {beside / LIMIT_S:.3f} of the limit"
    )
    print(f"failed {failed_before + failed}, heads let go {let_go} of {HEADS}")
    return 0 if beside < LIMIT_S and failed_before + failed == 0 and let_go == HEADS else 1


def _heads() -> Iterator[bytes]:
    yield from [b"GET /v1/me HTTP/1.1\r\nHost: x\r\nX-Slow: "] * HEADS


def _bodies(key: str) -> Iterator[bytes]:
    for number in range(BODIES):
        told = f"Host: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 1000000"
        yield f"PUT /v1/blobs/{number:064x} HTTP/1.1\r\n{told}\r\n\r\n".encode()


def _streams(key: str, job: str) -> Iterator[bytes]:
    told = f"Host: x\r\nAuthorization: Bearer {key}"
    yield from [f"GET /v1/jobs/{job}/events HTTP/1.1\r\n{told}\r\n\r\n".encode()] * STREAMS


async def _measure(
    address: tuple[str, int], key: str, seconds: float, crowd: list[bytes]
) -> tuple[float, int, int]:
    """The others' 99th percentile, how many heads were let go, and how many answers were no 200."""
    slow = [asyncio.create_task(_stall(address, request)) for request in crowd]
    await asyncio.sleep(1.0 if slow else 0.0)
    answers = await asyncio.gather(*(_ask(address, key, seconds) for _ in range(OTHERS)))
    times = [one for some, _ in answers for one in some]
    heads = slow[:HEADS]
    done, _ = await asyncio.wait(heads, timeout=max(LET_GO_S - seconds, 0.1)) if heads else ((), ())
    for task in slow:
        task.cancel()
    return statistics.quantiles(times, n=100)[98], len(done), sum(failed for _, failed in answers)


async def _stall(address: tuple[str, int], request: bytes) -> None:
    """Say this, then a byte each second if it is no stream, and read nothing; ends when the server closes."""
    _, writer = await asyncio.open_connection(*address)
    writer.write(request)
    with suppress(ConnectionError):
        while not writer.is_closing():
            await asyncio.sleep(1.0)
            if b"/events" not in request:
                writer.write(b"a")
                await writer.drain()


async def _ask(address: tuple[str, int], key: str, seconds: float) -> tuple[list[float], int]:
    """Seconds of each answer, connections opened anew included; and how many were no 200."""
    times, failed, end = [], 0, time.perf_counter() + seconds
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    url = f"http://{address[0]}:{address[1]}"
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
        while time.perf_counter() < end:
            begun = time.perf_counter()
            answer = await client.get("/v1/me")
            times.append(time.perf_counter() - begun)
            failed += answer.status_code != httpx.codes.OK
            await asyncio.sleep(PAUSE_S)
    return times, failed


@contextmanager
def _api(home: Path) -> Iterator[tuple[tuple[str, int], str, str, str]]:
    """The address of an API, a key and a running job of one project, and a key of another."""
    broker.ring = lambda *_: None  # nobody works here
    url = f"sqlite:///{home / 'fewbits.db'}"
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", url)
    command.upgrade(config, "head")
    database = Database(url)
    slow, other = (factories.make_project(database) for _ in range(2))
    job = factories.make_job(database, slow)
    with database.writing() as db:
        made = [keys.create(db, db.get_one(Project, p), "slow", ("read", "write")) for p in (slow, other)]
    database.dispose()
    port = _free_port()
    words = [sys.executable, "-m", "app.listen", f"--port={port}"]
    with (
        (home / "api.log").open("wb") as log,
        subprocess.Popen(  # noqa: S603 - the command is ours
            words, cwd=ROOT, env=os.environ | {"FEWBITS_HOME": str(home)}, stderr=log
        ) as api,
    ):
        try:
            _wait_for(f"http://127.0.0.1:{port}/healthz")
            yield ("127.0.0.1", port), made[0].text, job, made[1].text
        finally:
            api.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str) -> None:
    while True:
        with suppress(httpx.TransportError):
            httpx.get(url)
            return
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
