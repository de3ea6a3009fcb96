"""A disk of a few megabytes that can be filled: a tmpfs in a mount namespace of its own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.embedded.tether import tether

MOUNT = 'mount -t tmpfs -o size="$1",mode=755 tmpfs "$2" && echo mounted && exec sleep infinity'
PIECE = 64 * 1024


@dataclass(frozen=True)
class Disk:
    """Where it lies: `inside` starts a command that sees it at `path`, the others reach it by `outside`."""

    path: Path
    holder: int

    @property
    def inside(self) -> list[str]:
        """What starts a command there."""
        users = [] if os.getuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self.holder}", "--mount", *users]

    @property
    def outside(self) -> Path:
        """The same place for who did not enter."""
        return Path(f"/proc/{self.holder}/root{self.path}")

    def fill(self) -> None:
        """Leave no byte free."""
        with self._ballast.open("wb", 0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(PIECE))
        assert os.statvfs(self.outside).f_bfree == 0

    def free(self) -> None:
        """Give back what filled it."""
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        return self.outside / "ballast"


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Disk]:
    """A disk of this size at this place; a platform that has no such thing skips the test."""
    path.mkdir()
    unshare = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "-Urm"]
    command = tether([*unshare, "sh", "-c", MOUNT, "sh", size, str(path)])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as holder:
        assert holder.stdout
        said = holder.stdout.readline()
        if said != "mounted\n":
            pytest.skip(f"this platform gives no disk of its own: {said.strip()}")
        try:
            yield Disk(path, holder.pid)
        finally:
            holder.kill()
