"""Threads that wait for the network, and do not keep a process from ending: nobody joins them."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Call = tuple[Callable[..., object], tuple[Any, ...]]


class Senders:
    """At most so many threads, each started when all others are busy; calls beyond them wait."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._started = 0
        self._calls: SimpleQueue[Call] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._guard = threading.Lock()

    def submit(self, function: Callable[..., object], *arguments: Any) -> None:  # noqa: ANN401 - the function's
        """Call this in a thread; it must not raise."""
        self._calls.put((function, arguments))
        with self._guard:
            if not self._idle.acquire(blocking=False) and self._started < self._most:
                self._started += 1
                threading.Thread(target=self._run, name=f"{self._name} {self._started}", daemon=True).start()

    def _run(self) -> None:
        while True:
            function, arguments = self._calls.get()
            function(*arguments)
            self._idle.release()
