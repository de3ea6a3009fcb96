"""The commands that make up the service."""

import sys
from pathlib import Path

from app.domain.processor import allowed_cores
from app.embedded import home, redis_server
from app.embedded.address import Address
from app.embedded.children import Child

CONNECTIONS = 512
IDLE_SECONDS = 15
DRAIN_SECONDS = 5
CONTROL_THREADS = 32  # what a worker without prefetch takes at once; then it looks again a second later


def broker(folder: Path, private: Path) -> Child:
    """The Redis-protocol server; nothing in it outlives it."""
    return Child("broker", redis_server.command(private), home.fresh_log(folder, "broker"))


def api(folder: Path, address: Address) -> Child:
    """The HTTP side; slow and idle clients are bounded."""
    options = {
        "host": address.host,
        "port": address.port,
        "limit-concurrency": CONNECTIONS,
        "log-level": "warning",
        "timeout-graceful-shutdown": DRAIN_SECONDS,
        "timeout-keep-alive": IDLE_SECONDS,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    factory = ["app.main:create_app", "--factory", "--no-server-header", "--no-access-log"]
    return Child("api", [sys.executable, "-m", "uvicorn", *factory, *words], home.fresh_log(folder, "api"))


def engine(folder: Path) -> Child:
    """Inspects, prepares and builds, on all cores."""
    return worker(folder, "engine", "inspect,default", allowed_cores())


def soloists(folder: Path) -> list[Child]:
    """Measuring, and sweeping and sending webhooks, none of which waits for engine work."""
    control = worker(folder, "control", "control,webhooks", CONTROL_THREADS)
    return [worker(folder, "benchmark", "benchmark", 1), control]


def worker(folder: Path, name: str, queues: str, concurrency: int) -> Child:
    """One Celery worker. A thread per task is enough: the engine itself runs in processes of its own."""
    celery = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "worker.tasks",
        "worker",
        "-n",
        f"{name}@%h",
        "-Q",
        queues,
    ]
    pool = ["--pool", "threads", "--concurrency", str(concurrency)]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "info"]
    return Child(name, [*celery, *pool, *quiet], home.fresh_log(folder, name))
