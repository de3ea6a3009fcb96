"""One benchmark at a time on a host, and nothing else of ours beside it.

Engine work holds the host's lock shared, a benchmark exclusive. Both pass a turnstile first, so that a
waiting benchmark is not starved by a stream of shared holders.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

POLL_SECONDS = 0.05


class Stopped(Exception):
    """The worker stops; it did not get the lock."""


@contextmanager
def hold(folder: Path, *, exclusive: bool, stopping: Callable[[], bool]) -> Iterator[None]:
    """Hold the host's lock; the kernel frees it when this process dies.

    Raises:
        Stopped: `stopping` became true while waiting.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    with _locked(folder / "host.lock", None, stopping) as host:
        with _locked(folder / "turnstile.lock", fcntl.LOCK_EX, stopping):
            _wait(host, kind, stopping)
        yield


@contextmanager
def _locked(path: Path, kind: int | None, stopping: Callable[[], bool]) -> Iterator[int]:
    """An open lock file; closing it gives the lock back."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    try:
        if kind is not None:
            _wait(descriptor, kind, stopping)
        yield descriptor
    finally:
        os.close(descriptor)


def _wait(descriptor: int, kind: int, stopping: Callable[[], bool]) -> None:
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if stopping():
                raise Stopped from None
            sleep(POLL_SECONDS)
        else:
            return
