"""Becomes one process of the service: `python -m app.start api | worker | benchmark | control`.

A container runs one of them; `app.serve` keeps all of them up on one machine.
"""

import argparse
import os
import sys
from collections.abc import Callable

from app.domain.processor import allowed_cores
from app.settings import Settings

DRAIN_SECONDS = 5  # for the requests that are under way when the API is told to stop
CONTROL_THREADS = 32  # what a worker without prefetch takes at once; then it looks again a second later


def main() -> None:
    """Give this process over to the command, so that signals reach it and its end is ours."""
    parser = argparse.ArgumentParser(prog="python -m app.start", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    command = PARTS[parser.parse_args().part](Settings())
    os.execv(command[0], command)  # noqa: S606 - no shell is meant


def api(host: str, port: int, processes: int) -> list[str]:
    """The HTTP side."""
    where = [f"--host={host}", f"--port={port}", f"--processes={processes}"]
    return [sys.executable, "-m", "app.listen", *where]


def engine() -> list[str]:
    """Inspects, prepares and builds, on all cores."""
    return worker("engine", "inspect,default", allowed_cores())


def benchmark() -> list[str]:
    """Measures, one job at a time."""
    return worker("benchmark", "benchmark", 1)


def control() -> list[str]:
    """Sweeps and sends webhooks, neither of which waits for engine work."""
    return worker("control", "control,webhooks", CONTROL_THREADS)


def worker(name: str, queues: str, concurrency: int) -> list[str]:
    """One Celery worker. A thread per task is enough: the engine itself runs in processes of its own."""
    celery = [sys.executable, "-m", "celery", "--quiet", "-A", "worker.tasks", "worker"]
    role = ["-n", f"{name}@%h", "-Q", queues]
    pool = ["--pool", "threads", "--concurrency", str(concurrency)]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "info"]
    return [*celery, *role, *pool, *quiet]


PARTS: dict[str, Callable[[Settings], list[str]]] = {
    "api": lambda settings: api(settings.host, settings.port, settings.listeners),
    "worker": lambda _: engine(),
    "benchmark": lambda _: benchmark(),
    "control": lambda _: control(),
}


if __name__ == "__main__":
    main()
