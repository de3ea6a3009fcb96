"""Hosts: processes whose files nobody else can see, and who can write nowhere else.

Each has a file system in memory at the same path as the others have theirs; all the rest is read-only to it.
Linux lets anybody have that (`unshare`); where it is forbidden, a host is no more than a folder of its own.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from app.embedded.tether import tether

ROOT = Path(__file__).parents[2]
ENTER = """
set -e
hostname "$1" 2>/dev/null || echo "$1" >/proc/sys/kernel/hostname
mount -t tmpfs none "$2"
mount --bind "$3" "$3"
mount -o remount,ro,bind /
mkdir "$2/home" "$2/tmp"
shift 3
exec "$@"
"""
UNSHARE = ["unshare", "--mount", "--uts"]
AS_ANYBODY = ["unshare", "--user", "--map-root-user", "--mount", "--uts"]


@dataclass(frozen=True)
class Place:
    """Where hosts have their files, and where a socket may lie that others reach."""

    private: Path
    shared: Path


@dataclass(frozen=True)
class Host:
    """One process of the service on a host of its own."""

    name: str
    process: subprocess.Popen[bytes]
    private: Path

    def files(self) -> set[str]:
        """All files of this host, as it sees them."""
        root = Path(f"/proc/{self.process.pid}/root{self.private}") if isolated() else self.private
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@cache
def isolated() -> bool:
    """Whether hosts can be kept apart here."""
    return bool(_entrance())


@contextmanager
def host(name: str, words: list[str], place: Place, settings: Mapping[str, str]) -> Iterator[Host]:
    """Run a module of the service on a host; what it says is in a log beside the others."""
    private = place.private if isolated() else place.private / name
    private.mkdir(exist_ok=True)
    command = [sys.executable, "-m", *words]
    if isolated():
        enter = ["sh", "-c", ENTER, "sh", name, str(private), str(place.shared)]
        command = [*_entrance(), *enter, *command]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FEWBITS_", "AWS_"))}
    own = {"FEWBITS_HOME": str(private / "home"), "TMPDIR": str(private / "tmp")}
    with (
        (place.shared / f"{name}.log").open("wb") as log,
        subprocess.Popen(
            tether(command),
            cwd=ROOT,
            env=kept | dict(settings) | own,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            yield Host(name, process, private)
        finally:
            process.kill()  # as hosts end


@cache
def _entrance() -> list[str]:
    for way in (UNSHARE, AS_ANYBODY):
        try:
            if subprocess.run([*way, "true"], check=False, capture_output=True).returncode == 0:
                return way
        except FileNotFoundError:
            break
    return []
