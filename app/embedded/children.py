"""Commands that are kept running: started, started again when they die, and ended in good time."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.embedded.tether import tether

SETTLED_SECONDS = 5.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
POLL_SECONDS = 0.05
LOG_BYTES = 16 * 1024 * 1024


@dataclass
class Child:
    """One command, and how its life has been so far."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    early_deaths: int = 0


def revive(child: Child) -> str | None:
    """Start the child when it is time to; say how it died when it just did."""
    now, died = time.monotonic(), None
    if child.process and child.process.poll() is not None:
        died = _bury(child, now)
    if child.process is None and now >= child.due:
        child.process, child.started = _start(child), now
    return died


def due(children: Iterable[Child]) -> float | None:
    """Seconds until the next one is to be started; None when all are running."""
    waiting = [child.due for child in children if child.process is None]
    return max(0.0, min(waiting) - time.monotonic()) if waiting else None


def bound_log(child: Child) -> None:
    """Begin a log anew when it is long, under the writer's hands; what it held is kept beside it.

    What is written between the two steps, which take milliseconds, is lost.
    """
    if child.log.exists() and child.log.stat().st_size > LOG_BYTES:
        with suppress(OSError):  # on a full disk its space is worth more than what it says
            shutil.copyfile(child.log, f"{child.log}.1")
        os.truncate(child.log, 0)


def end(children: Iterable[Child], patience: float) -> None:
    """Ask all of them to stop, and kill who has not done so in time."""
    running = [child.process for child in children if child.process]
    for process in running:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for process in running:
        _signal(process, signal.SIGKILL)
        process.communicate()
    for child in children:
        child.process = None


def _start(child: Child) -> subprocess.Popen[bytes]:
    """A process group of its own keeps the terminal's Ctrl-C away: the order of the end is ours."""
    with child.log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - the commands are ours
            tether(child.command), stdin=subprocess.PIPE, stdout=log, stderr=log, process_group=0
        )


def _bury(child: Child, now: float) -> str:
    """Plan the next start: at once after a life of some length, else after a growing pause."""
    assert child.process is not None  # noqa: S101 - for the type checker
    code = child.process.returncode
    child.process.communicate()
    child.process = None
    child.early_deaths = child.early_deaths + 1 if now - child.started < SETTLED_SECONDS else 0
    child.due = now + min(FIRST_PAUSE * 2**child.early_deaths, LONGEST_PAUSE)
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
