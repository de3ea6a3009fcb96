"""Faults that come again and again, at the same seeded choices in every run."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from app.embedded.children import Child
from tests.faults.parts import READY


class Every:
    """Does something each time that so many seconds have passed; what says False was not done."""

    def __init__(self, seconds: float, deed: Callable[[], object], most: int | None = None) -> None:
        self.times = 0
        self._seconds, self._deed, self._most = seconds, deed, most
        self._last = time.monotonic()

    def __call__(self) -> None:
        if self.times == self._most or time.monotonic() - self._last < self._seconds:
            return
        if self._deed() is not False:
            self.times += 1
            self._last = time.monotonic()


def killing_one_of(victims: Sequence[Child], seed: int) -> Callable[[], bool]:
    """Kills one of these workers, chosen at random among those that were ready since they were last killed.

    On a slow host a worker that is always killed while it starts would never do anything.
    """
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    kills = Counter[str]()

    def kill() -> bool:
        ready = [v for v in victims if v.log.read_text(errors="replace").count(READY) > kills[v.name]]
        if not ready:
            return False
        victim = chance.choice(ready)
        if victim.process:
            with suppress(ProcessLookupError):
                os.killpg(victim.process.pid, signal.SIGKILL)
        kills[victim.name] += 1
        return True

    return kill
