"""Runs a command that ends when the process that started it ends, however that happens.

    python -IS tether.py SIGNAL PARENT USER:GROUP COMMAND…

It is a script of its own, not a hook between fork and exec: such a hook may deadlock where there are threads.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Owner:
    """The user and the group that a command runs as."""

    user: int
    group: int


def tether(
    command: Sequence[str], *, death: signal.Signals = signal.SIGKILL, owner: Owner | None = None
) -> list[str]:
    """The command, tied to this process. Start it with `stdin=PIPE`: outside Linux that pipe is the tie."""
    owner = owner or Owner(os.getuid(), os.getgid())
    script = str(Path(__file__).resolve())
    ties = [str(int(death)), str(os.getpid()), f"{owner.user}:{owner.group}"]
    return [sys.executable, "-IS", script, *ties, *command]


def main() -> None:
    """Tie this process to its parent, then become the command."""
    death, parent, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[4:]
    change_to(Owner(*map(int, sys.argv[3].split(":"))))  # first: it would undo the tie
    if sys.platform == "linux":
        by_kernel(death, parent)
    else:
        by_guard(death)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execvp(command[0], command)  # noqa: S606 - no shell is meant


def change_to(owner: Owner) -> None:
    """Give up this process's rights, all of them."""
    if owner.user != os.getuid():
        os.setgroups([])
        os.setgid(owner.group)
        os.setuid(owner.user)


def by_kernel(death: int, parent: int) -> None:
    """Linux sends the signal; a parent that died before it was asked to is no longer ours."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def by_guard(death: int) -> None:
    """Leave a child behind that sees the end of standard input, whose other end only our parent holds."""
    command = os.getpid()
    if os.fork():
        return
    os.setpgid(0, 0)
    while os.read(0, 1024):
        pass
    if os.getppid() == command:
        os.kill(command, death)
    os._exit(0)


if __name__ == "__main__":
    main()
