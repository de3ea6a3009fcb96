"""Several processes share the API's address: they count together and end together."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.waiting import SECONDS, in_time

PROCESSES = 2
ASKED = 20
SOCKET = "api.sock"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@dataclass(frozen=True)
class Shared:
    """The process that was started, and a client whose every request is a connection of its own."""

    started: subprocess.Popen[bytes]
    http: httpx.Client

    def listeners(self) -> set[int]:
        """The children that serve; multiprocessing's own helper is none of them."""
        children = Path(f"/proc/{self.started.pid}/task/{self.started.pid}/children").read_text().split()
        return {int(child) for child in children if b"spawn_main" in said(int(child))}


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, redis_url: str
) -> Iterator[Shared]:
    with listening(tmp_path_factory.mktemp("shared"), migrated_sqlite, redis_url) as found:
        yield found


@pytest.fixture
def ending(tmp_path: Path, migrated_sqlite: Path, redis_url: str) -> Iterator[Shared]:
    with listening(tmp_path, migrated_sqlite, redis_url) as found:
        yield found


@contextmanager
def listening(home: Path, migrated: Path, redis: str) -> Iterator[Shared]:
    url = f"sqlite:///{shutil.copy(migrated, home / 'fewbits.db')}"
    settings = {"FEWBITS_HOME": str(home), "FEWBITS_DATABASE_URL": url, "FEWBITS_REDIS_URL": redis}
    command = [sys.executable, "-m", "app.listen", f"--uds={home / SOCKET}", f"--processes={PROCESSES}"]
    transport = httpx.HTTPTransport(uds=str(home / SOCKET), limits=httpx.Limits(max_keepalive_connections=0))
    with (
        (home / "api.log").open("wb") as log,
        subprocess.Popen(command, env=os.environ | settings, stderr=log) as started,
        httpx.Client(transport=transport, base_url="http://api", timeout=SECONDS) as http,
    ):
        try:
            found = Shared(started, http)
            assert in_time(lambda: takes_connections(home / SOCKET))
            assert in_time(lambda: len(found.listeners()) == PROCESSES)
            yield found
        finally:
            started.terminate()


def takes_connections(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(str(path))
        return True
    return False


def said(pid: int) -> bytes:
    """A process's command; empty once it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_whoever_is_asked_tells_what_all_of_them_answered(shared: Shared) -> None:
    line = 'fewbits_requests_total{method="GET",route="/healthz",status="200"}'
    before = count(shared, line)
    for _ in range(ASKED):
        shared.http.get("/healthz").raise_for_status()

    assert {count(shared, line) for _ in range(ASKED)} == {before + ASKED}


def test_one_that_is_killed_is_replaced(shared: Shared) -> None:
    before = shared.listeners()
    os.kill(min(before), signal.SIGKILL)

    assert in_time(lambda: len(shared.listeners() - {min(before)}) == PROCESSES)
    assert shared.http.get("/healthz").is_success


def test_none_outlives_the_process_that_started_it(ending: Shared) -> None:
    listeners = ending.listeners()
    ending.started.kill()

    assert in_time(lambda: not any(said(pid) for pid in listeners))


def test_all_end_when_they_are_told_to_stop(ending: Shared) -> None:
    listeners = ending.listeners()
    ending.started.terminate()

    assert ending.started.wait(SECONDS) == 0
    assert not any(said(pid) for pid in listeners)


def count(shared: Shared, line: str) -> float:
    lines = shared.http.get("/metrics").text.splitlines()
    return float(next((found.rpartition(" ")[2] for found in lines if found.startswith(line)), "0"))
