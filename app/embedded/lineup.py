"""The processes that make up the service, each with its log in the home folder."""

from pathlib import Path

from app import start
from app.embedded import home, redis_server
from app.embedded.address import Address
from app.embedded.children import Child


def broker(folder: Path, private: Path) -> Child:
    """The Redis-protocol server; nothing in it outlives it."""
    return Child("broker", redis_server.command(private), home.fresh_log(folder, "broker"))


def api(folder: Path, address: Address, processes: int = 1) -> Child:
    """The HTTP side."""
    return Child("api", start.api(address.host, address.port, processes), home.fresh_log(folder, "api"))


def engine(folder: Path) -> Child:
    """Inspects, prepares and builds."""
    return Child("engine", start.engine(), home.fresh_log(folder, "engine"))


def soloists(folder: Path) -> list[Child]:
    """Measuring, and sweeping and sending webhooks, none of which waits for engine work."""
    commands = {"benchmark": start.benchmark(), "control": start.control()}
    return [Child(name, command, home.fresh_log(folder, name)) for name, command in commands.items()]


def worker(folder: Path, name: str, queues: str, concurrency: int) -> Child:
    """Any other worker."""
    return Child(name, start.worker(name, queues, concurrency), home.fresh_log(folder, name))
