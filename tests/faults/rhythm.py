"""Faults that come again and again, at the same seeded choices in every run."""

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from app.embedded.children import Child


class Every:
    """Does something each time that so many seconds have passed since it was last looked at."""

    def __init__(self, seconds: float, deed: Callable[[], object], most: int | None = None) -> None:
        self.times = 0
        self._seconds, self._deed, self._most = seconds, deed, most
        self._last = time.monotonic()

    def __call__(self) -> None:
        if self.times == self._most or time.monotonic() - self._last < self._seconds:
            return
        self._deed()
        self.times += 1
        self._last = time.monotonic()


def killing_one_of(victims: Sequence[Child], seed: int) -> Callable[[], None]:
    """Kills one of these processes, chosen at random."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated

    def kill() -> None:
        victim = chance.choice(victims)
        if victim.process:
            with suppress(ProcessLookupError):
                os.killpg(victim.process.pid, signal.SIGKILL)

    return kill
